"""Numbers as people read them; what was not measured is ``-``, never 0 and never nan."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "-"
_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = " .:-=+*#@"
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.0f}"


def percent(ratio: float) -> str:
    """A ratio 0..1 as per cent, one digit behind the point; little is not nothing, and nearly all not all."""
    if not math.isfinite(ratio):
        return MISSING
    if 0 < ratio < 0.001:
        return "<0.1 %"
    return ">99.9 %" if 0.999 < ratio < 1 else f"{100 * ratio:.1f} %"


def rate(total: float, seconds: float) -> str:
    """``total`` a second."""
    if not math.isfinite(total) or not seconds > 0:
        return MISSING
    value = total / seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Three digits or so, in the unit that suits: µs as ``us``, so that any terminal shows it."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds >= 36_000:
        return f"{seconds / 3600:,.1f} h"
    if seconds >= 600:
        return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    if seconds >= 1:
        return f"{_three_digits(seconds)} s"
    if seconds >= 1e-3:
        return f"{_three_digits(1e3 * seconds)} ms"
    return f"{_three_digits(1e6 * seconds)} us" if seconds else "0 s"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def sparkline(values: Sequence[float], top: float, *, ascii_only: bool = False) -> str:
    """A character a value, as high as its part of ``top``; anything above 0 is seen, ``nan`` is ``-``."""
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    return "".join(
        MISSING if math.isnan(value) else blocks[min(8, math.ceil(8 * value / top - 1e-9))] for value in values
    )


def bar(ratio: float, width: int, *, ascii_only: bool = False) -> str:
    """A horizontal bar; ``width`` characters stand for 1."""
    if ascii_only:
        return "#" * round(ratio * width)
    eighths = max(1, round(8 * width * ratio))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
