"""Whether an environment variable switches a plug-in on. Imports nothing: it runs in engines that never asked."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OFF = ("", "0", "off", "none", "no", "false")


def switched_on(environment: Mapping[str, str], name: str) -> bool:
    """Whether ``name`` is set, and not to 0, off, none, no or false."""
    return environment.get(name, "").strip().lower() not in OFF
