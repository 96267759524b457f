"""A made-up workload: arrivals as bursty as wanted, lognormal lengths, classes with shares. Seeded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

import msgspec

from batchscope.checks import LARGEST, check_not_negative, check_positive, check_whole
from batchscope.errors import ConfigurationError
from batchscope.simulator.workload import RequestSpec

LEAST_BURSTINESS = 1e-3
"""Below, gaps are all the same: the gamma distribution ends at a shape that floats can hold."""
MAX_BURSTINESS = 100.0


class Lengths(msgspec.Struct, frozen=True):
    """Lognormal token counts: half of them below ``median``; ``sigma`` is that of the logarithm.

    They are rounded, at least 1 and at most ``cap`` (a longer one becomes ``cap``).
    """

    median: float
    sigma: float
    cap: int = 32_768

    def __post_init__(self) -> None:
        check_positive("median", self.median, "tokens")
        check_not_negative("sigma", self.sigma, "a standard deviation")
        check_whole("cap", self.cap, 1, LARGEST)

    def draw(self, random: Random) -> int:
        """One length."""
        logarithm = math.log(self.median) + self.sigma * random.gauss(0.0, 1.0)
        return max(1, round(math.exp(logarithm))) if logarithm < math.log(self.cap) else self.cap


class RequestClass(msgspec.Struct, frozen=True):
    """A kind of request: ``share`` is relative to the other classes' shares."""

    name: str
    share: float = 1.0
    priority: int = 0

    def __post_init__(self) -> None:
        check_positive("share", self.share, "a weight")


class SyntheticWorkload(msgspec.Struct, frozen=True):
    """``requests`` requests, ``rate`` a second; iterating twice gives the same ones twice.

    ``burstiness`` is the coefficient of variation of the gaps between arrivals: 1 is a Poisson process, 0 a
    metronome, above 1 come bursts (gaps are gamma distributed). The default lengths are close to those of
    Azure's chat service: medians 1,020 and 129 tokens.
    """

    requests: int = 1000
    rate: float = 4.0
    burstiness: float = 1.0
    prompt: Lengths = Lengths(median=1020, sigma=1.0, cap=14_050)
    output: Lengths = Lengths(median=129, sigma=1.0, cap=1000)
    classes: tuple[RequestClass, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("requests", self.requests, 1, LARGEST)
        check_positive("rate", self.rate, "requests a second")
        check_not_negative("burstiness", self.burstiness, "a coefficient of variation")
        if self.burstiness > MAX_BURSTINESS:
            raise ConfigurationError("burstiness", self.burstiness, f"at most {MAX_BURSTINESS}")

    def __iter__(self) -> Iterator[RequestSpec]:
        random = Random(self.seed)
        shares = [kind.share for kind in self.classes]
        arrival = 0.0
        for number in range(self.requests):
            arrival += self._gap(random)
            kind = random.choices(self.classes, shares)[0] if self.classes else None
            yield RequestSpec(
                number,
                arrival,
                self.prompt.draw(random),
                self.output.draw(random),
                request_class=kind.name if kind else None,
                priority=kind.priority if kind else 0,
            )

    def _gap(self, random: Random) -> float:
        """Gamma with shape 1/cv^2 has the coefficient of variation cv; with cv 1 it is the exponential."""
        if self.burstiness < LEAST_BURSTINESS:
            return 1 / self.rate
        variance = self.burstiness**2
        return random.gammavariate(1 / variance, variance / self.rate)
