"""Numbers as people read them; what was not measured is ``-``, never 0 and never nan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

MISSING = "-"
_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = " .:-=+*#@"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
ROUNDING = 1e-9
"""A difference of ratios that may be one of floats only."""


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.0f}"


def counted(number: int | None, noun: str) -> str:
    """``1 preemption``, ``2 preemptions``."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def percent(ratio: float) -> str:
    """A ratio 0..1 as per cent, one digit behind the point; little is not nothing, and nearly all not all."""
    if not math.isfinite(ratio):
        return MISSING
    if 0 < ratio < 0.001:
        return "<0.1 %"
    return ">99.9 %" if 0.999 < ratio < 1 - ROUNDING else f"{100 * ratio:.1f} %"


def signed(ratio: float) -> str:
    """``+6.4 %``; ``-`` where it is not known, or without bound."""
    return f"{100 * ratio:+.1f} %" if math.isfinite(ratio) else MISSING


def change(now: float, before: float) -> str:
    """In per cent; nothing where there is nothing to compare."""
    return "" if math.isnan(now) or not before > 0 else f"{100 * (now / before - 1):+.1f} %"


def percent_range(low: float, high: float) -> str:
    """Two ratios as ``98.8..99.9 %``, with the digits that tell them apart from each other, from 0 and from 100."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return MISSING
    for digits in range(1, 7):
        texts = [f"{100 * ratio:.{digits}f}" for ratio in (low, high)]
        if low == high or (texts[0] != texts[1] and _all_told(texts, (low, high))):
            break
    return f"{texts[0]}..{texts[1]} %"


def _all_told(texts: Sequence[str], ratios: Sequence[float]) -> bool:
    """Whether only what is 0 or 1, but for the last bits of a float, reads so."""
    return all(
        float(text) not in {0, 100} or min(ratio, 1 - ratio) < ROUNDING
        for text, ratio in zip(texts, ratios, strict=True)
    )


def per_second(value: float) -> str:
    """A rate; two digits however small it is, and 0 of none."""
    if not math.isfinite(value):
        return MISSING
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def amount(value: float) -> str:
    """A quantity that need not be whole, in three digits or so; little is not nothing."""
    if not math.isfinite(value):
        return MISSING
    if value < 0:
        return f"-{amount(-value)}"
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 1:
        return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return "0" if value == 0 else f"{value:.3f}" if value >= 0.001 else "<0.001"


_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def in_one_unit(seconds: Iterable[float]) -> tuple[str, list[str]]:
    """The unit that suits the middle of all these durations, and each of them in it: to be read beside each other.

    No unit where none of them is known.
    """
    values = list(seconds)
    if not any(map(math.isfinite, values)):
        return "", [MISSING] * len(values)
    known = [value for value in values if 0 < value < math.inf]
    middle = math.sqrt(min(known)) * math.sqrt(max(known)) if known else 1.0
    size, unit = next((pair for pair in _UNITS if middle >= pair[0]), _UNITS[-1])
    return unit, [_short(value / size) for value in values]


def _short(value: float) -> str:
    """At most seven characters."""
    return f"{value:.1e}" if 999_999.5 <= value < math.inf else amount(value)


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


def whole_seconds(seconds: float) -> str:
    """The length of a window: whole seconds up to ten minutes, then as ``duration``."""
    return f"{seconds:.0f} s" if 1 <= seconds < 600 else duration(seconds)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def sparkline(values: Sequence[float], top: float, *, ascii_only: bool = False) -> str:
    """A character a value, as high as its part of ``top``; anything above 0 is seen, ``nan`` is ``-``."""
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    return "".join(
        MISSING if math.isnan(value) else blocks[min(8, math.ceil(8 * value / top - 1e-9))] for value in values
    )


def columns(values: Sequence[float], top: float, height: int, *, ascii_only: bool = False) -> list[str]:
    """A chart ``height`` lines high, the highest line first; a column a value, blank where that is ``nan`` or 0."""
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    eighths = [0 if math.isnan(value) or top <= 0 else math.ceil(8 * height * value / top - 1e-9) for value in values]
    return [
        "".join(blocks[min(8, max(0, eighth - 8 * line))] for eighth in eighths) for line in reversed(range(height))
    ]


def bar(ratio: float, width: int, *, ascii_only: bool = False) -> str:
    """A horizontal bar; ``width`` characters stand for 1."""
    if ascii_only:
        return "#" * round(ratio * width)
    eighths = max(1, round(8 * width * ratio))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
