"""Conditions that fail a comparison: ``p99_ttft > +5%``, asked of the interval's bound, not of the difference."""

from __future__ import annotations

import difflib
import math
import re
from enum import StrEnum
from typing import NamedTuple

from batchscope.errors import ConfigurationError
from batchscope.ledger.comparison.document import Comparison, Difference, Verdict
from batchscope.ledger.comparison.figures import CLASS_PREFIX, QUANTITIES, figure_names
from batchscope.ledger.comparison.pair import CONFIDENCE


class Outcome(StrEnum):
    """What becomes of a condition."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Condition(NamedTuple):
    """Fails where the difference of ``figure`` is certainly more (``>``) or less (``<``) than ``threshold``.

    ``threshold`` is a share of A's figure where ``relative``, else in the figure's unit.
    """

    text: str
    figure: str
    more: bool
    threshold: float
    relative: bool

    def of(self, comparison: Comparison, conditions: int = 1) -> tuple[Outcome, str]:
        """The outcome and why, a sentence; ``conditions``: how many are asked at once (Bonferroni)."""
        found = next((each for each in comparison.figures if each.figure == self.figure), None)
        if found is None:
            return Outcome.INCONCLUSIVE, f"{self.figure} was not measured on both sides"
        scale = abs(found.a) if self.relative else 1.0
        if not scale:
            return Outcome.INCONCLUSIVE, f"{self.figure} is 0 in A: a share of it says nothing"
        bounds = [bound / scale for bound in found.interval(1 - (1 - CONFIDENCE) / conditions)]
        sign = 1 if self.more else -1
        low, high = sorted(sign * bound for bound in bounds)
        interval = f"the difference is in {self._shown(bounds[0], found.unit)} .. {self._shown(bounds[1], found.unit)}"
        if high <= sign * self.threshold and not self._too_few(found):
            return Outcome.PASS, interval
        if low > sign * self.threshold and found.verdict is Verdict.DIFFERS:
            return Outcome.FAIL, interval
        return Outcome.INCONCLUSIVE, interval + self._floor(found, low > sign * self.threshold)

    def _too_few(self, found: Difference) -> bool:
        return not math.isfinite(found.error) or found.freedom <= 1

    def _floor(self, found: Difference, beyond: bool) -> str:
        return f", no verdict: {found.needs}" if beyond else f": {found.needs}"

    def _shown(self, value: float, unit: str) -> str:
        if self.relative:
            return f"{100 * value:+.1f} %"
        return f"{1000 * value:+.3g} ms" if unit == "s" else f"{value:+.3g}"


_SYNTAX = re.compile(
    r"\s*(?P<figure>\w+|attainment:[^<>]*[^<>\s])\s*"
    r"(?P<sign>[<>])\s*(?P<value>[+-]?\d+(\.\d+)?)\s*(?P<unit>%|ms|s|)\s*",
    re.ASCII,
)
_FACTOR = {"%": 0.01, "ms": 0.001, "s": 1.0, "": 1.0}


def parse_condition(text: str) -> Condition:
    """``p99_ttft > +5%``, ``goodput < -3%``, ``mean_tpot > 2ms``; ConfigurationError for anything else."""
    match = _SYNTAX.fullmatch(text)
    if match is None:
        raise ConfigurationError("fail_if", text, "FIGURE > or < a number, with %, ms or s: 'p99_ttft > +5%'")
    names = figure_names()
    figure = match["figure"]
    if figure not in names and not figure.startswith(CLASS_PREFIX):
        near = difflib.get_close_matches(figure, names, 3) or names
        raise ConfigurationError("fail_if", text, f"a figure such as {', '.join(near)}")
    quantity = next((each for each in QUANTITIES if figure in map(each.figure, each.shares)), QUANTITIES[0])
    if not match["unit"] and (quantity.unit == "s" or (quantity.unit == "1" and abs(float(match["value"])) > 1)):
        allowed = "%, ms or s" if quantity.unit == "s" else "a share of at most 1, or %"
        raise ConfigurationError("fail_if", text, f"a unit behind {match['value']}: {allowed}")
    value = float(match["value"]) * _FACTOR[match["unit"]]
    return Condition(text.strip(), figure, match["sign"] == ">", value, match["unit"] == "%")
