"""Checks of settings: each refuses a wrong value with the field, the value and what is allowed. True is no number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeGuard

from batchscope.errors import ConfigurationError

LARGEST = 2**31 - 1
"""Of whole numbers that arithmetic goes on with in 64 bits."""
_MOST_CHARACTERS = 1024
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is one; ``nan`` and infinity are, too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_whole(field: str, value: object, least: int, most: int | None = None, note: str = "") -> None:
    """A whole number from ``least`` to ``most``, if there is one; ``note`` explains the bound."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        allowed = f">= {least}" if most is None else f"{least}..{most}"
        raise ConfigurationError(field, value, f"a whole number {allowed}{note}")


def check_ratio(field: str, value: object) -> None:
    """A number 0..1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ConfigurationError(field, value, "a ratio 0..1")


def check_positive(field: str, value: object, what: str, note: str = "") -> None:
    """A finite number above 0: ``what`` it is, ``note``: what else may stand there."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ConfigurationError(field, value, f"{what} > 0{note}")


def check_not_negative(field: str, value: object, what: str) -> None:
    """A finite number from 0 on."""
    if not is_number(value) or not 0 <= value < math.inf:
        raise ConfigurationError(field, value, f"{what} >= 0")


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """A copy of ``labels``; refused unless they are names that Prometheus takes, and texts of bounded length."""
    if not isinstance(labels, Mapping):
        raise ConfigurationError("labels", labels, 'a mapping such as {"model_name": "m"}, or None')
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise ConfigurationError("labels", name, "label names of letters, digits and _, not starting with __")
        checked_text(f"labels[{name!r}]", value)
    return dict(labels)


def checked_text(field: str, value: str) -> str:
    """``value``; refused unless it is a text of at most 1,024 characters: every scrape repeats it on every series."""
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS:
        shown = value if not isinstance(value, str) else f"{value[:40]}... ({len(value)} characters)"
        raise ConfigurationError(field, shown, f"a text of at most {_MOST_CHARACTERS} characters")
    return value
