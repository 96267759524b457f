"""The entry point ``sglang.srt.plugins``: has SGLang use batchscope's metrics collectors, if it was asked for.

SGLang calls ``register`` early in each of its processes. Switched off (``BATCHSCOPE_SGLANG`` not set) it returns at
once: nothing is imported, hooked or logged. Collectors that somebody passed as ``stat_loggers`` stay.
"""

from __future__ import annotations

import os

from batchscope.plugins.switch import switched_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SWITCH = "BATCHSCOPE_SGLANG"
HOOKED = "sglang.srt.observability.metrics_collector.resolve_collector_class"


def register() -> None:
    """Hook the function by which SGLang chooses the class of a collector (0.5.23)."""
    if switched_on(os.environ, SWITCH):
        from sglang.srt.plugins.hook_registry import (  # type: ignore[import-not-found]  # noqa: PLC0415
            HookRegistry,
            HookType,
        )

        HookRegistry.register(HOOKED, choose, HookType.AROUND)


def choose(original: Callable[[str, type], type], role: str, default_cls: type) -> type:
    """Ours in place of SGLang's own; any other that was registered for ``role`` stays."""
    chosen = original(role, default_cls)
    if chosen is not default_cls:
        return chosen
    from batchscope.plugins.sglang import stat_loggers  # noqa: PLC0415  (it imports what is being hooked)

    ours = stat_loggers().get(role, default_cls)
    return ours if issubclass(ours, default_cls) else default_cls
