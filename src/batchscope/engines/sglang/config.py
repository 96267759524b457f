"""What SGLang's settings say of an engine: its limits, its role, its rank's endpoint. Read by attribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchscope.configuration import SchedulerLimits

_ROLES = {"prefill": "prefill", "decode": "decode"}


def limits_of(settings: Any, num_pages: Any = None) -> SchedulerLimits:
    """What one scheduler's batches are measured against; what the settings do not say is None.

    ``max_running_requests`` is known where it was set: SGLang hands its own choice to nobody. It is that of all
    ranks of data-parallel attention together. The token budget is that of a prefill batch: ``chunked_prefill_size``,
    or ``max_prefill_tokens`` where prefill is not chunked (-1).
    """
    running = _count(settings, "max_running_requests")
    ranks = _count(settings, "dp_size") or 1
    if running and getattr(settings, "enable_dp_attention", False):
        running = max(running // ranks, 1)
    return SchedulerLimits(
        max_running_requests=running,
        max_scheduled_tokens=_count(settings, "chunked_prefill_size") or _count(settings, "max_prefill_tokens"),
        kv_cache_blocks=_whole(num_pages),
        kv_block_size=_count(settings, "page_size"),
    )


def role_of(settings: Any) -> str:
    """``prefill`` or ``decode`` of a disaggregated engine, else ``unified``."""
    return _ROLES.get(str(getattr(settings, "disaggregation_mode", None)), "unified")


def labels_of(labels: Mapping[str, Any] | None) -> dict[str, str]:
    """``model_name``, as in SGLang's own series."""
    name = (labels or {}).get("model_name")
    return {"model_name": name} if isinstance(name, str) else {}


def endpoint_of(settings: Any, labels: Mapping[str, Any] | None) -> tuple[bool, str | None]:
    """Whether this rank publishes its forward passes, and where: SGLang adds ``.rank`` to the base name.

    It makes up a base name of its own where none was set, late in its start: until then it is None.
    """
    base = getattr(settings, "forward_pass_metrics_ipc_name", None)
    published = bool(getattr(settings, "enable_forward_pass_metrics", False))
    if not published or not isinstance(base, str):
        return published, None
    return True, f"{base}.{(labels or {}).get('dp_rank', 0)}"


def _count(settings: Any, name: str) -> int | None:
    return _whole(getattr(settings, name, None))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
