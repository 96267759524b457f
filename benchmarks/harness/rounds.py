"""All contenders in turn, round after round, so that a slow minute of the machine hits all of them."""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from rich.console import Console
from rich.progress import track

from harness.contender import Contender
from harness.runner import Child, Local, Remote, Runner

_ORDER = 20_240_612


class Times(NamedTuple):
    """What a contender took in each round, nanoseconds a call."""

    rounds: list[float]

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def ratios(self, reference: Times) -> list[float]:
        """How many times cheaper than ``reference``, round by round."""
        return [theirs / ours for theirs, ours in zip(reference.rounds, self.rounds, strict=True)]


@contextlib.contextmanager
def runners(contenders: Sequence[Contender]) -> Iterator[dict[Contender, Runner]]:
    """Every contender that is present, made and ready; none has run yet."""
    with contextlib.ExitStack() as stack:
        ready: dict[Contender, Runner] = {}
        child = None
        for contender in contenders:
            if not contender.present:
                continue
            if contender.own_process:
                child = child or stack.enter_context(Child())
                ready[contender] = Remote(child, contender)
            else:
                ready[contender] = Local(contender.make())
        yield ready


def interleaved(
    contenders: Sequence[Contender], *, rounds: int, mode: Literal["warm", "cold"], scale: float = 1.0
) -> dict[str, Times]:
    """Contender -> its times. One round to warm up is not counted; the order changes with every round."""
    times: dict[str, list[float]] = {}
    with runners(contenders) as ready:
        order = list(ready)
        shuffle = random.Random(_ORDER).shuffle
        console = Console(stderr=True)
        for number in track(
            range(rounds + 1), f"{mode} rounds", console=console, transient=True, disable=not console.is_terminal
        ):
            shuffle(order)
            for contender in order:
                taken = getattr(ready[contender], mode)(max(1, round(contender.calls * scale)))
                if number:
                    times.setdefault(contender.key, []).append(taken)
        for runner in ready.values():
            runner.verify()
    return {key: Times(taken) for key, taken in times.items()}
