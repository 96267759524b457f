"""vLLM schedulers that report why admission stopped: ``--scheduler-cls batchscope.plugins.vllm_scheduler.<class>``.

Opt-in, and for the engine core's process. The class must match vLLM's scheduling: ``ReportingAsyncScheduler``
where scheduling is asynchronous, which is vLLM's default, ``ReportingScheduler`` with ``--no-async-scheduling``.
They decide nothing: every result is vLLM's own.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # type: ignore[import-not-found]
from vllm.v1.core.sched.scheduler import Scheduler  # type: ignore[import-not-found]

from batchscope.engines.vllm_admission import AdmissionReporter


class _Reports:
    """Tells an ``AdmissionReporter`` of each step; goes before the scheduler in the list of bases."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._batchscope = AdmissionReporter(self)

    def schedule(self, *arguments: Any, **options: Any) -> Any:
        """As vLLM's."""
        output = super().schedule(*arguments, **options)  # type: ignore[misc]
        self._batchscope.scheduled(output)
        return output

    def update_from_output(self, scheduler_output: Any, *arguments: Any, **options: Any) -> Any:
        """As vLLM's."""
        self._batchscope.processing(scheduler_output)
        return super().update_from_output(scheduler_output, *arguments, **options)  # type: ignore[misc]

    def make_stats(self, *arguments: Any, **options: Any) -> Any:
        """As vLLM's, with one key more."""
        stats = super().make_stats(*arguments, **options)  # type: ignore[misc]
        self._batchscope.tell(stats)
        return stats


class ReportingScheduler(_Reports, Scheduler):  # type: ignore[misc]
    """For ``--no-async-scheduling``."""


class ReportingAsyncScheduler(_Reports, AsyncScheduler):  # type: ignore[misc]
    """For asynchronous scheduling, vLLM's default."""
