"""Collectors for an engine's processes and what records into them: imported only once the plug-in is switched on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, TypeAlias

import msgspec

from batchscope.collector import SchedulerMetricsCollector
from batchscope.configuration import MetricsConfiguration, SchedulerLimits
from batchscope.engines.forward_pass import ForwardPassReader
from batchscope.engines.settings import plain_settings
from batchscope.engines.sglang.config import endpoint_of, labels_of, limits_of, role_of
from batchscope.engines.sglang.scheduler import ForwardPassMetrics, SglangScheduler
from batchscope.engines.sglang.tokenizer import SglangTokenizer
from batchscope.plugins.service import Service
from batchscope.plugins.settings import Settings, read_settings
from batchscope.records import EngineInfo

_BAGS = {
    "max_running_requests": "get_schedule",
    "chunked_prefill_size": "get_schedule",
    "max_prefill_tokens": "get_schedule",
    "disaggregation_mode": "get_disagg",
    "enable_forward_pass_metrics": "get_observability",
    "forward_pass_metrics_ipc_name": "get_observability",
    "dp_size": "get_parallel",
    "enable_dp_attention": "get_parallel",
}
"""Setting -> where SGLang 0.5.23 keeps what it made of it (``sglang.srt.runtime_context``)."""


_TEXTS = (
    "schedule_policy", "dtype", "kv_cache_dtype", "quantization", "device", "attention_backend", "sampling_backend",
    "disaggregation_mode", "speculative_algorithm", "load_format",
)  # fmt: skip

Endpoint: TypeAlias = Callable[[], tuple[bool, str | None]]
"""Whether forward passes are published at all, and where, if that is known by now."""


class EngineSettings:
    """SGLang's settings by name: as resolved in this process, else as given to it, else None. Read anew each time."""

    def __init__(self, server_args: Any) -> None:
        self._given = server_args

    def __getattr__(self, name: str) -> Any:
        value = _of_context(_BAGS.get(name, ""), name)
        return getattr(self._given, name, None) if value is None else value


def _of_context(bag: str, name: str) -> Any:
    """A value of SGLang's runtime context; None where this version, or this process, does not have it."""
    try:
        from sglang.srt import runtime_context  # type: ignore[import-not-found]  # noqa: PLC0415  (if it is there)

        return getattr(getattr(runtime_context, bag)(), name)
    except Exception:  # noqa: BLE001  (not published here, not of this version: whatever it is, it is not known)
        return None


class Tokenizer:
    """What runs in a tokenizer manager's process."""

    def __init__(self, collector: SchedulerMetricsCollector, recorder: SglangTokenizer, service: Service) -> None:
        self.collector = collector
        self.recorder = recorder
        self._service = service

    def close(self) -> None:
        """End it."""
        self._service.close()


class Scheduler:
    """What runs in a scheduler's process; it subscribes to its forward passes as soon as SGLang has named them."""

    def __init__(
        self, collector: SchedulerMetricsCollector, recorder: SglangScheduler, service: Service, endpoint: Endpoint
    ) -> None:
        self.collector = collector
        self.recorder = recorder
        self.reader: ForwardPassReader | None = None
        self._service = service
        self._endpoint: Endpoint | None = endpoint
        self.observe_queue_time = recorder.observe_queue_time
        self.increment_retracted_reqs = recorder.increment_retracted_reqs
        self.increment_realtime_tokens = recorder.increment_realtime_tokens
        recorder.hooks.guard(self._subscribe)

    def log_stats(self, stats: Any, **more: Any) -> None:
        """The scheduler's present state; it comes when all of SGLang has started."""
        self.recorder.log_stats(stats, **more)
        if self._endpoint is not None:
            self._subscribe()

    def _subscribe(self) -> None:
        """Read forward passes from now on, where they are published and known where."""
        assert self._endpoint is not None  # noqa: S101  (the callers looked)
        published, endpoint = self._endpoint()
        if endpoint is not None or not published:
            self._endpoint = None
        if endpoint is not None:
            metrics = ForwardPassMetrics(self.collector, self.recorder)
            self.reader = ForwardPassReader(metrics, endpoint, clock=self.recorder.clock, sender="sglang")

    def close(self) -> None:
        """End it."""
        if self.reader is not None:
            self.reader.close()
        self._service.close()


def begin_tokenizer(
    server_args: Any, labels: Mapping[str, Any], environment: Mapping[str, str], log: logging.Logger
) -> Tokenizer:
    """A collector of requests, served and published as the environment says."""
    settings, engine = _settings(environment, log), EngineSettings(server_args)
    collector = _collector(settings, engine, labels, SchedulerLimits())
    recorder = SglangTokenizer(collector, prefill_only=collector.role == "prefill")
    return Tokenizer(collector, recorder, Service(collector, settings, log, configuration=_configuration(server_args)))


def begin_scheduler(
    server_args: Any, labels: Mapping[str, Any], num_pages: Any, environment: Mapping[str, str], log: logging.Logger
) -> Scheduler | None:
    """A collector of the scheduler's own; None in ranks that repeat another one's work, and where nobody could read it.

    It is published only: one port cannot be listened on by several processes, so that is the tokenizer manager's.
    """
    if not _first_rank(labels):
        return None
    settings = msgspec.structs.replace(_settings(environment, log), port=None)
    if settings.snapshot_directory is None and settings.record is None:
        log.warning(
            "batchscope: queue times, iterations and gauges of the scheduler are not recorded: set"
            " BATCHSCOPE_SNAPSHOT_DIR and read all processes together with batchscope serve DIRECTORY; or"
            " BATCHSCOPE_RECORD"
        )
        return None
    engine = EngineSettings(server_args)
    collector = _collector(settings, engine, labels, limits_of(engine, num_pages))
    recorder = SglangScheduler(collector)
    service = Service(collector, settings, log, configuration=_configuration(server_args))
    return Scheduler(collector, recorder, service, lambda: endpoint_of(engine, labels))


def _configuration(server_args: Any) -> dict[str, Any]:
    """What SGLang was started with, without what may be a path, an address or a secret."""
    return {"server_args": plain_settings(server_args, _TEXTS)}


def _settings(environment: Mapping[str, str], log: logging.Logger) -> Settings:
    return read_settings(environment, lambda line: log.warning("batchscope: %s", line))


def _collector(
    settings: Settings, engine: EngineSettings, labels: Mapping[str, Any], limits: SchedulerLimits
) -> SchedulerMetricsCollector:
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo=settings.slo), limits=limits, labels=labels_of(labels), role=role_of(engine)
    )
    collector.engine = EngineInfo(kind="sglang", version=sglang_version())
    return collector


def _first_rank(labels: Mapping[str, Any]) -> bool:
    """Whether this scheduler speaks for its data-parallel rank: others do the same, on other parts of the model."""
    parts = ("attn_tp_rank", "attn_cp_rank", "pp_rank")
    ranks = [_of_context("get_parallel", name) for name in parts]
    if None in ranks:
        ranks = [labels.get(name) for name in ("tp_rank", "pp_rank")]
    return not any(ranks)


def sglang_version() -> str:
    """The installed version, empty where no distribution tells."""
    try:
        return metadata.version("sglang")
    except metadata.PackageNotFoundError:
        return ""
