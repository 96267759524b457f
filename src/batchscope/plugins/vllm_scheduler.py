"""vLLM schedulers that report why admission stopped: ``--scheduler-cls batchscope.plugins.vllm_scheduler.<class>``.

Opt-in, and for the engine core's process. ``ReportingAsyncScheduler`` is vLLM's default, asynchronous scheduling;
``ReportingScheduler`` is for ``--no-async-scheduling``. ``ReportingOther`` goes around the class that
``BATCHSCOPE_VLLM_SCHEDULER`` names, ``package.module.Class``: for engines that bring a scheduler of their own. In
Python the same is ``class Mine(Reporting, TheirScheduler)``. They decide nothing: every result is the base's own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # type: ignore[import-not-found]
from vllm.v1.core.sched.scheduler import Scheduler  # type: ignore[import-not-found]

from batchscope.engines.vllm.admission import AdmissionReporter
from batchscope.errors import ConfigurationError

BASE = "BATCHSCOPE_VLLM_SCHEDULER"


class Reporting:
    """Tells an ``AdmissionReporter`` of each step; goes before the scheduler in the list of bases."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._batchscope = AdmissionReporter(self)

    def schedule(self, *arguments: Any, **options: Any) -> Any:
        """As the base's. vLLM asks with ``throttle_prefills``, first or by name."""
        self._batchscope.scheduling()
        output = super().schedule(*arguments, **options)  # type: ignore[misc]
        throttled = arguments[0] if arguments else options.get("throttle_prefills", False)
        self._batchscope.scheduled(output, throttled=bool(throttled))
        return output

    def update_from_output(self, scheduler_output: Any, *arguments: Any, **options: Any) -> Any:
        """As the base's."""
        results = arguments[0] if arguments else options.get("model_runner_output")
        self._batchscope.processing(scheduler_output, results)
        return super().update_from_output(scheduler_output, *arguments, **options)  # type: ignore[misc]

    def make_stats(self, *arguments: Any, **options: Any) -> Any:
        """As the base's, with one key more."""
        stats = super().make_stats(*arguments, **options)  # type: ignore[misc]
        self._batchscope.tell(stats)
        return stats


class ReportingScheduler(Reporting, Scheduler):  # type: ignore[misc]
    """For ``--no-async-scheduling``."""


class ReportingAsyncScheduler(Reporting, AsyncScheduler):  # type: ignore[misc]
    """For asynchronous scheduling, vLLM's default."""


def reporting(base: type) -> type:
    """``base``, any of vLLM's schedulers or a subclass, that reports. ConfigurationError for a class that is none."""
    if not (isinstance(base, type) and issubclass(base, Scheduler)):
        raise ConfigurationError(BASE, base, "a subclass of vllm.v1.core.sched.scheduler.Scheduler")
    if issubclass(base, Reporting):
        return base
    return type(f"Reporting{base.__name__}", (Reporting, base), {"__doc__": base.__doc__, "__module__": __name__})


def _named(environment: Mapping[str, str]) -> type:
    """The class that ``BATCHSCOPE_VLLM_SCHEDULER`` names, made to report."""
    path = environment.get(BASE, "").strip()
    module, _, name = path.rpartition(".")
    allowed = "package.module.Class of a scheduler, without which there is nothing to go around"
    if not module:
        raise ConfigurationError(BASE, path, allowed)
    try:
        return reporting(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(BASE, path, f"{allowed} ({error})") from error


def __getattr__(name: str) -> Any:
    """``ReportingOther`` is made when it is asked for: only then the variable is read."""
    if name == "ReportingOther":
        return _named(os.environ)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Reporting", "ReportingAsyncScheduler", "ReportingScheduler", "reporting"]
