"""The vLLM plug-in: entry point ``vllm.stat_logger_plugins``, and the same logger for use in your own program.

This module is imported inside vLLM's process only, because the class it offers must be a subclass of vLLM's.
Switched off (``BATCHSCOPE_VLLM`` not set) it does nothing: no collector, no thread, no port, no log line.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Protocol

from batchscope.plugins.switch import switched_on

try:
    from vllm.v1.metrics.loggers import AggregateStatLoggerBase  # type: ignore[import-not-found]
except ModuleNotFoundError as error:
    raise ImportError(
        f"batchscope.plugins.vllm is for a process that runs vLLM, and it cannot be imported here ({error}): "
        "install vllm, or measure another process with `batchscope watch URL`"
    ) from error

SWITCH = "BATCHSCOPE_VLLM"
logger = logging.getLogger("vllm.batchscope")  # below vLLM's own, whose handlers and format it shares


class _Recorder(Protocol):
    def record(self, scheduler_stats: Any, iteration_stats: Any, rank: int = 0) -> None: ...
    def turned_away(self) -> None: ...
    def slept(self, sleeps: bool) -> None: ...


class _Off:
    """Hears everything and does nothing."""

    def record(self, scheduler_stats: Any, iteration_stats: Any, rank: int = 0) -> None:
        """Nothing."""

    def turned_away(self) -> None:
        """Nothing."""

    def slept(self, sleeps: bool) -> None:
        """Nothing."""


class _Logger(AggregateStatLoggerBase):  # type: ignore[misc]
    """What vLLM calls, handed on. It is called in the event loop that serves every request.

    One object hears all data-parallel ranks of its front end. ``log_engine_initialized`` is the first call that
    comes when the engine's memory is known, so all begins there.
    """

    def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
        self._config = vllm_config
        self._ranks = len(engine_indexes or [0])
        self._recorder: _Recorder = _Off()

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,  # noqa: ARG002  (vLLM's signature)
        engine_idx: int = 0,
    ) -> None:
        """One engine step."""
        self._recorder.record(scheduler_stats, iteration_stats, engine_idx)

    def record_sleep_state(self, is_awake: int = 0, level: int = 0) -> None:  # noqa: ARG002
        """Sleep or waking up: vLLM names it ``is_awake`` and passes 1 when the engine goes to sleep (0.32.0)."""
        self._recorder.slept(is_awake == 1)

    def record_admission_rejection(self, reason: str) -> None:  # noqa: ARG002
        """A request that a queue limit kept out."""
        self._recorder.turned_away()

    def log(self) -> None:
        """Time for a log line, of which there is none."""

    def log_engine_initialized(self) -> None:
        """Begin; whatever goes wrong is told in one line, and the engine goes on without."""
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001
            logger.warning("batchscope: not recording: %r; the engine is not affected", error)

    def _begin(self) -> None:
        """Put the recorder in place."""


class BatchscopeStatLogger(_Logger):
    """The plug-in: the environment says whether and how. See docs/how-to/vllm.md for the variables."""

    def _begin(self) -> None:
        if switched_on(os.environ, SWITCH):
            from batchscope.plugins.vllm_start import begin  # noqa: PLC0415  (off means: nothing is imported)

            self._started = begin(self._config, self._ranks, os.environ, logger)
            self._recorder = self._started.recorder


def stat_logger(collector: Any = None, *, request_class: str = "") -> type[_Logger]:
    """A stat logger for ``AsyncLLM(..., stat_loggers=[...])`` or ``LLMEngine``, that records into ``collector``.

    Without one it makes its own when the engine is up, with the engine's limits and model name: then it is the
    class's attribute ``collector``. ``request_class`` is as ``BATCHSCOPE_VLLM_REQUEST_CLASS`` (``priority``, or
    ``id:REGEX``), and a wrong one raises ``ConfigurationError``. It is independent of the environment variables.
    """
    from batchscope.engines.vllm.classes import parse_request_class  # noqa: PLC0415  (the plug-in, off, has no use for it)

    classes = parse_request_class(request_class)

    class Logger(_Logger):
        def _begin(self) -> None:
            from batchscope.plugins.vllm_start import record_into  # noqa: PLC0415

            started = record_into(type(self).collector, self._config, self._ranks, classes)
            type(self).collector = started.collector
            self._recorder = started.recorder

    Logger.collector = collector
    return Logger


def attach(engine: Any, collector: Any = None, *, request_class: str = "") -> Any:
    """Record an engine that exists already: an offline ``LLM``, an ``LLMEngine`` or an ``AsyncLLM``.

    Call it before the first request. Returns the collector. ``request_class`` is as ``stat_logger`` takes it.
    ValueError where the engine keeps no statistics: make it with ``disable_log_stats=False``, which is not ``LLM``'s
    default.
    """
    engine = getattr(engine, "llm_engine", engine)
    manager = getattr(engine, "logger_manager", None)
    if manager is None:
        raise ValueError(
            f"{type(engine).__name__} keeps no statistics: make it with disable_log_stats=False, then attach"
        )
    made = stat_logger(collector, request_class=request_class)(engine.vllm_config, list(manager.engine_indexes))
    made.log_engine_initialized()
    manager.stat_loggers.append(made)
    return type(made).collector


__all__ = ["BatchscopeStatLogger", "attach", "stat_logger"]
