"""SGLang's metrics collectors with batchscope's ears: pass ``stat_loggers()`` to SGLang as ``stat_loggers=``.

This module is imported inside SGLang's processes only, because its classes must be subclasses of SGLang's; SGLang
pickles them by name. Each call goes to SGLang's own collector first, so its metrics stay as they are, then to
batchscope, guarded. Switched off (``BATCHSCOPE_SGLANG`` not set) nothing is added: no collector, no thread, no port.
"""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import Any

from batchscope.errors import BatchscopeError
from batchscope.plugins.sglang_switch import SWITCH
from batchscope.plugins.switch import switched_on


class SglangMissingError(BatchscopeError, ImportError):
    """SGLang is not installed here, or is a version without these classes."""


try:
    from sglang.srt.observability.metrics_collector import (  # type: ignore[import-not-found]
        SchedulerMetricsCollector,
        TokenizerMetricsCollector,
    )
except ImportError as error:
    raise SglangMissingError(
        f"batchscope.plugins.sglang needs SGLang 0.5.23 or near it in this environment ({error}):"
        " pip install sglang, or scrape its /metrics with: batchscope watch URL"
    ) from error

logger = logging.getLogger("sglang.batchscope")
_TOKENIZER = (
    "observe_time_to_first_token",
    "observe_inter_token_latency",
    "observe_one_finished_request",
    "observe_one_aborted_request",
)
_SCHEDULER = ("log_stats", "observe_queue_time", "increment_retracted_reqs", "increment_realtime_tokens")


def _nothing(*_: Any, **__: Any) -> None:
    """What is heard while batchscope is switched off, or could not begin."""


def _off(names: tuple[str, ...]) -> Any:
    return SimpleNamespace(**dict.fromkeys(names, _nothing))


def _guarded(hooks: Any, recorder: Any, names: tuple[str, ...]) -> Any:
    """``recorder``'s methods; what they raise, also about their arguments, stays here: counted, and logged once."""

    def again(error: Exception) -> None:
        raise error

    def guarded(method: Any) -> Any:
        def heard(*arguments: Any, **options: Any) -> None:
            try:
                method(*arguments, **options)
            except Exception as error:  # noqa: BLE001
                hooks.guard(again, error)

        return heard

    return SimpleNamespace(**{name: guarded(getattr(recorder, name)) for name in names})


class BatchscopeTokenizerCollector(TokenizerMetricsCollector):  # type: ignore[misc]
    """In the tokenizer manager's process: requests, first tokens, gaps between tokens."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.batchscope: Any = None
        self._heard = _off(_TOKENIZER)
        if switched_on(os.environ, SWITCH):
            try:
                self._begin(options.get("server_args"))
            except Exception as error:  # noqa: BLE001
                logger.warning("batchscope: not recording requests: %r; the engine is not affected", error)

    def _begin(self, server_args: Any) -> None:
        from batchscope.plugins.sglang_start import begin_tokenizer  # noqa: PLC0415  (off means: nothing is imported)

        self.batchscope = begin_tokenizer(server_args, self.labels, os.environ, logger)
        recorder = self.batchscope.recorder
        self._heard = _guarded(recorder.hooks, recorder, _TOKENIZER)

    def observe_one_finished_request(self, *arguments: Any, **options: Any) -> None:
        """A request's last output, however it ended."""
        super().observe_one_finished_request(*arguments, **options)
        self._heard.observe_one_finished_request(*arguments, **options)

    def observe_time_to_first_token(self, *arguments: Any, **options: Any) -> None:
        """A request's first output."""
        super().observe_time_to_first_token(*arguments, **options)
        self._heard.observe_time_to_first_token(*arguments, **options)

    def observe_inter_token_latency(self, *arguments: Any, **options: Any) -> None:
        """A later output."""
        super().observe_inter_token_latency(*arguments, **options)
        self._heard.observe_inter_token_latency(*arguments, **options)

    def observe_one_aborted_request(self, *arguments: Any, **options: Any) -> None:
        """An abort was sent to the scheduler."""
        super().observe_one_aborted_request(*arguments, **options)
        self._heard.observe_one_aborted_request(*arguments, **options)


class BatchscopeSchedulerCollector(SchedulerMetricsCollector):  # type: ignore[misc]
    """In each scheduler's process: queue times, present state, and iterations where SGLang publishes them.

    SGLang makes one in every rank's process and speaks in some: it begins with ``emit_constants``, when memory and
    ranks are known, in the first rank of those that share a scheduler's work.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.batchscope: Any = None
        self._server_args = options.get("server_args")
        self._heard = _off(_SCHEDULER)

    def emit_constants(self, *arguments: Any, **options: Any) -> None:
        """Sizes of memory, when the model is loaded."""
        super().emit_constants(*arguments, **options)
        if self.batchscope is None and switched_on(os.environ, SWITCH):
            try:
                self._begin(options.get("num_pages"))
            except Exception as error:  # noqa: BLE001
                logger.warning("batchscope: not recording the scheduler: %r; the engine is not affected", error)

    def _begin(self, num_pages: Any) -> None:
        from batchscope.plugins.sglang_start import begin_scheduler  # noqa: PLC0415  (off means: nothing is imported)

        self.batchscope = begin_scheduler(self._server_args, self.labels, num_pages, os.environ, logger)
        if self.batchscope is not None:
            self._heard = _guarded(self.batchscope.recorder.hooks, self.batchscope, _SCHEDULER)

    def log_stats(self, *arguments: Any, **options: Any) -> None:
        """The present state: each prefill batch, some decode batches, and when idle."""
        super().log_stats(*arguments, **options)
        self._heard.log_stats(*arguments, **options)

    def observe_queue_time(self, *arguments: Any, **options: Any) -> None:
        """A request is scheduled for the first time."""
        super().observe_queue_time(*arguments, **options)
        self._heard.observe_queue_time(*arguments, **options)

    def increment_retracted_reqs(self, *arguments: Any, **options: Any) -> None:
        """Requests lost their place."""
        super().increment_retracted_reqs(*arguments, **options)
        self._heard.increment_retracted_reqs(*arguments, **options)

    def increment_realtime_tokens(self, *arguments: Any, **options: Any) -> None:
        """Tokens of one batch."""
        super().increment_realtime_tokens(*arguments, **options)
        self._heard.increment_realtime_tokens(*arguments, **options)


def stat_loggers() -> dict[str, type]:
    """For ``sglang.Engine(..., enable_metrics=True, stat_loggers=stat_loggers())``: role -> class."""
    return {"scheduler": BatchscopeSchedulerCollector, "tokenizer": BatchscopeTokenizerCollector}


__all__ = ["BatchscopeSchedulerCollector", "BatchscopeTokenizerCollector", "SglangMissingError", "stat_loggers"]
