"""Checks of settings: each refuses a wrong value with the field, the value and what is allowed."""

from __future__ import annotations

import math

from batchscope.errors import ConfigurationError

LARGEST_WHOLE = 2**31 - 1


def check_whole(field: str, value: object, least: int, reason: str = "") -> None:
    """A whole number from ``least`` on; ``reason`` explains the bound."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_WHOLE:
        raise ConfigurationError(field, value, f"a whole number {least}..{LARGEST_WHOLE}{reason}")


def check_ratio(field: str, value: object) -> None:
    """A number 0..1."""
    if not _is_number(value) or not 0 <= value <= 1:  # type: ignore[operator]
        raise ConfigurationError(field, value, "a ratio 0..1")


def check_positive(field: str, value: object, what: str) -> None:
    """A finite number above 0."""
    if not _is_number(value) or not 0 < value < math.inf:  # type: ignore[operator]
        raise ConfigurationError(field, value, f"{what} > 0")


def check_not_negative(field: str, value: object, what: str) -> None:
    """A finite number from 0 on."""
    if not _is_number(value) or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ConfigurationError(field, value, f"{what} >= 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
