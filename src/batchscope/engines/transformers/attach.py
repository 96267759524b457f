"""transformers' continuous batching, measured from outside: ``attach(manager_or_model, collector)``.

transformers 5.23 emits no metrics. Hooks on the manager's queue, the scheduler and the batch processor report
every request and every iteration to a ``RequestTracker``. Instants are ours, by request id: after a preemption
transformers makes a new state of the same id whose own timestamps are gone. Nothing of it is imported here.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Any

from batchscope.asked import read_record, record_as_asked
from batchscope.configuration import SchedulerLimits
from batchscope.engines.hooks import Hooks
from batchscope.engines.transformers.steps import Steps
from batchscope.records import CompletionReason, EngineInfo, SchedulerMetrics
from batchscope.tracking.tracker import RequestTracker

logger = logging.getLogger("batchscope")

DEFINITIONS = {
    "clock": "the engine's process, at the calls named below; the client's network and (de)tokenisation are not in it",
    "queue_time": "put into the manager's input queue, to the start of the iteration that first schedules it",
    "time_to_first_token": "put into the input queue, to the end of the update_batch that appends its first token",
    "inter_token_latency": "between the ends of the update_batch calls that append its tokens, preemptions included",
    "completion_reason": "derived: the last token is an end-of-sequence token, or the limit of new tokens is reached",
}


def attach(target: Any, metrics: SchedulerMetrics) -> Attachment:
    """Measure a ``ContinuousBatchingManager``, or every one that ``target``, a model, makes from now on.

    Attach before ``start()`` or ``generate_batch()``: requests that are under way are not seen. ``metrics`` is a
    ``SchedulerMetricsCollector`` or anything that a ``RequestTracker`` takes; a collector's run is recorded where
    ``BATCHSCOPE_RECORD`` says. TypeError for another target.
    """
    if hasattr(target, "input_queue") and hasattr(target, "add_request"):
        return Attachment(metrics).attach_manager(target)
    if hasattr(target, "init_continuous_batching"):
        return Attachment(metrics).attach_model(target)
    raise TypeError(
        f"cannot attach to a {type(target).__name__}: expected a ContinuousBatchingManager, or a model that has "
        "init_continuous_batching (transformers 5.23)"
    )


class Attachment:
    """What ``attach`` gave; ``detach()`` takes every hook off again. ``failures`` should stay 0."""

    def __init__(self, metrics: SchedulerMetrics) -> None:
        self._metrics = metrics
        self._hooks = Hooks("transformers' continuous batching")
        self.tracker = RequestTracker(metrics)
        self._steps = Steps(self.tracker, metrics)
        self._managers: list[Any] = []
        self._processors: list[Any] = []
        self._describe()
        complain = partial(logger.warning, "batchscope: %s")
        record_as_asked(metrics, read_record(os.environ, complain), complain)

    @property
    def failures(self) -> int:
        """How often a hook of ours raised; the first is in the log."""
        return self._hooks.failures

    @property
    def missing(self) -> list[str]:
        """Methods that this version of transformers does not have; their figures are missing."""
        return self._hooks.missing

    def detach(self) -> None:
        """Take all hooks off; requests in flight count as lost."""
        self._hooks.remove()
        self._steps.lose_all()
        self._managers.clear()
        self._processors.clear()

    def attach_model(self, model: Any) -> Attachment:
        """Measure each manager that ``model`` makes."""
        self._hooks.wrap(model, "init_continuous_batching", after=lambda _, manager, *__: self.attach_manager(manager))
        return self

    def attach_manager(self, manager: Any) -> Attachment:
        """Measure ``manager``; again is no harm."""
        if any(manager is known for known in self._managers):
            return self
        self._managers.append(manager)
        steps, wrap = self._steps, self._hooks.wrap
        wrap(
            manager.input_queue, "put", before=lambda state, *_: steps.arrived(state),
            failed=lambda _, __, state, *___: steps.finished(state.request_id, CompletionReason.REJECTED),
        )  # fmt: skip
        wrap(manager.output_router, "fail_and_deliver", before=steps.failed)
        wrap(manager, "_create_batch_processor", after=lambda _, processor: self._attach_processor(manager, processor))
        if manager.batch_processor is not None:
            self._attach_processor(manager, manager.batch_processor)
        self._report_missing()
        return self

    def _attach_processor(self, manager: Any, processor: Any) -> None:
        if any(processor is known for known in self._processors):
            return
        self._processors.append(processor)
        steps, wrap, scheduler = self._steps, self._hooks.wrap, processor.scheduler
        steps.cache, steps.scheduler = processor.cache, scheduler
        wrap(
            processor, "prepare_next_batch", before=steps.begin, after=lambda _, ready: steps.formed(ready=ready),
            failed=lambda *_: steps.formed(ready=False),
        )  # fmt: skip
        wrap(processor, "_generation_step", before=lambda *_: steps.clock(), after=lambda at, *_: steps.forwarded(at))
        wrap(processor, "update_batch", before=steps.before_update, after=lambda step, _: steps.updated(step))
        wrap(scheduler, "schedule_batch", after=lambda _, result, *budgets: steps.scheduled(result, *budgets))
        wrap(scheduler, "clear_cancelled_requests", after=lambda _, states: steps.cancelled(states))
        wrap(scheduler, "reset", before=steps.scheduler_reset)
        wrap(
            processor.offloading_manager, "offload_requests",
            before=steps.active_ids, after=lambda active, _: steps.offloaded(active),
        )  # fmt: skip
        self._tell_limits(limits_of(manager))
        self._report_missing()

    def _tell_limits(self, limits: SchedulerLimits) -> None:
        """A collector made without limits learns the engine's."""
        set_limits = getattr(self._metrics, "set_limits", None)
        if set_limits is not None and getattr(self._metrics, "limits", None) == SchedulerLimits():
            set_limits(limits)

    def _describe(self) -> None:
        if isinstance(getattr(self._metrics, "engine", None), EngineInfo):
            self._metrics.engine = EngineInfo("transformers", _version())  # type: ignore[attr-defined]
        definitions = getattr(self._metrics, "definitions", None)
        if isinstance(definitions, dict):
            definitions.update(DEFINITIONS)

    def _report_missing(self) -> None:
        definitions = getattr(self._metrics, "definitions", None)
        if self.missing and isinstance(definitions, dict):
            definitions["missing"] = "this version of transformers has no " + ", ".join(sorted(set(self.missing)))


_LIMITS = ("max_requests_per_batch", "max_batch_tokens", "num_blocks", "page_size")


def limits_of(manager: Any) -> SchedulerLimits:
    """The limits of a manager's batches, as far as it says them; all of them once it has started."""
    config = manager.continuous_batching_config
    found = [getattr(config, name, None) for name in _LIMITS]
    places, budget, blocks, page = (value if isinstance(value, int) and value > 0 else None for value in found)
    return SchedulerLimits(places, budget, blocks, page)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  (slow to import, needed once)

    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""
