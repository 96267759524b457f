"""An engine's settings, as far as they may be kept with its run: no path, address, prompt or secret."""

from __future__ import annotations

import re
from collections.abc import Container
from math import isfinite
from typing import Any

_PLAIN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_ADDRESS = re.compile(r"(^|_)(port|ports|pid|rank|fd)($|_)")


def plain_settings(section: Any, texts: Container[str]) -> dict[str, bool | int | float | str]:
    """An object's attributes that are numbers or switches, and those of ``texts`` that are plain words.

    What may hold a path, an address, a prompt or a secret is left out: other texts, private names, ports, and objects.
    """
    attributes = getattr(section, "__dict__", {})
    found: dict[str, bool | int | float | str] = {}
    for name, value in sorted(attributes.items()):
        if name.startswith("_") or _ADDRESS.search(name):
            continue
        word = str(getattr(value, "value", value)).removeprefix("torch.") if name in texts else ""
        if type(value) in {bool, int} or (type(value) is float and isfinite(value)):
            found[name] = value
        elif _PLAIN_TEXT.fullmatch(word):
            found[name] = word
    return found
