"""What ``batchscope whatif`` foretells of an engine, against the same engine run with those settings.

``Foretold`` has an engine serve ``workload()`` under each of its settings in turn, round by round, the first setting
first and once more after each round (``turns``), and records every run in ``folder(root, setting, number)``. Then it
fits a model to each run of the first setting and asks it for the others. What the two models around a round say is
held, on average, against the runs of that round: the machine's moods are in both. A figure holds if the prediction is
off by no more than 10 %, or than the runs differ among themselves, those from which it was foretold or those that it
was foretold of. Apart from that the policy has to form the batches that the engine formed (``same_schedule.py``).
Where a prediction does not hold after three rounds, two more are served, and all five are judged: a machine that was
slow for a minute is in one or two of them.

Engine, load and record go by the engine's ``CoreClock``. By the wall nothing could be said here: where twenty others
want the same two cores, the same run takes 14 or 34 seconds.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from same_schedule import compared

ROUNDS = (3, 2)
"""So many are served and judged; where a figure does not hold, so many more, and all of them."""
TOLERANCE = 0.10
LATENCIES = {"time_to_first_token": "TTFT", "time_per_output_token": "TPOT", "total_time": "e2e"}
STATISTICS = ("mean", "p50", "p95", "p99")
PARTS = {"step time, given the batches": "step_time", "schedule, given the times": "schedule", "both": "both"}
FEWEST_FOR_P99 = 300
"""Below, a p99 is the word of three requests."""
_SECONDS = 120.0
_WALL = time.monotonic  # an engine may be made to read another clock by that name


class Asked(NamedTuple):
    """A request: when it is sent, seconds from the start, its prompt's tokens, and how many it is to generate."""

    at: float
    prompt: list[int]
    tokens: int


Setting = dict[str, int]


class CoreClock:
    """Seconds for which the engine's thread had a core, and those that were skipped while it had nothing to do.

    It stands still while others have the core. What they do to its caches, it shows.
    """

    def __init__(self) -> None:
        self._clock: int | None = None
        self._skipped = 0.0

    def follow(self, thread: threading.Thread) -> None:
        """``thread``, which has started, is the engine's."""
        self._clock = time.pthread_getcpuclockid(thread.ident or 0)

    def __call__(self) -> float:
        return self._skipped + (0.0 if self._clock is None else time.clock_gettime(self._clock))

    def skip_to(self, instant: float) -> None:
        """The engine has nothing to do until then."""
        self._skipped += max(0.0, instant - self())


def serve(
    asked: Iterable[Asked],
    clock: CoreClock,
    *,
    send: Callable[[Asked], object],
    go_on: Callable[[], object],
    busy: Callable[[], bool],
) -> float:
    """``send`` the requests at their times, whatever becomes of those before; how long all took, by the clock."""
    todo, begin = deque(asked), clock()
    while todo or busy():
        if not busy():
            clock.skip_to(begin + todo[0].at)
        while todo and begin + todo[0].at <= clock():
            send(todo.popleft())
        go_on()
    return clock() - begin


class Load(NamedTuple):
    """A few requests that come slowly, then many at once: batches of every size, and then a queue.

    A constant load shows one size of batch, and one operating point does not tell the constants apart.
    """

    few: int
    few_a_second: float
    many: int
    many_a_second: float
    prompts: tuple[int, ...]
    answers: tuple[int, ...]


def workload(load: Load, seed: int = 3) -> list[Asked]:
    """The same requests for the same seed, as a Poisson process sends them; every length as often as the others."""
    chance = random.Random(seed)
    at, made = 0.0, []
    for number in range(load.few + load.many):
        at += chance.expovariate(load.few_a_second if number < load.few else load.many_a_second)
        prompt = [chance.randrange(8, 260) for _ in range(chance.choice(load.prompts))]
        made.append(Asked(at, prompt, chance.choice(load.answers)))
    return made


def turns(names: Iterable[str], rounds: range) -> Iterator[tuple[str, int]]:
    """In which order the settings, of these ``names``, are served in these rounds, and the number of each run."""
    first, *others = names
    if not rounds.start:
        yield first, 0
    for number in rounds:
        yield from ((name, number) for name in others)
        yield first, number + 1


def named(setting: Setting) -> str:
    """As one says it; the first one is what the others change."""
    return ", ".join(f"{name} = {value}" for name, value in setting.items()) or "first"


def folder(root: Path, setting: str, number: int) -> Path:
    """Where the run of a setting in a round is."""
    return root / setting.replace(" = ", "-").replace(", ", "-") / str(number)


class Foretold:
    """The proof of one engine. ``others``: what each setting changes of the first, in the engine's words, and
    ``called``: these words in batchscope's.

    ``record``: serve ``asked`` with that setting as a run of its own below that folder, and return the seconds of a
    core that it took. ``known``: by setting and figure, how far it may be off where it is known to be missed, and
    docs/how-to/what-if.md says so.
    """

    def __init__(
        self,
        engine: str,
        root: Path,
        others: Iterable[Setting],
        called: dict[str, str],
        asked: list[Asked],
        record: Callable[[Setting, Path], float],
        known: dict[str, dict[str, float]] | None = None,
    ) -> None:
        self._engine, self._root, self._record = engine, root, record
        self._tokens = sum(request.tokens for request in asked)
        self._known = known or {}
        self._settings = {named(setting): setting for setting in ({}, *others)}
        self._first, *self._others = self._settings
        self._called = called

    def prove(self) -> bool:
        """Serve and judge; whether each prediction holds."""
        shutil.rmtree(self._root, ignore_errors=True)
        served = failures = 0
        for more in ROUNDS:
            self._serve(range(served, served + more))
            served += more
            failures = self._judge(served)
            said = f"{failures} predictions do not hold" if failures else "all predictions hold"
            print(f"{self._engine}: after {served} rounds: {said}", flush=True)
            if not failures:
                break
        return not failures

    def _serve(self, rounds: range) -> None:
        for name, number in turns(self._settings, rounds):
            begin = _WALL()
            took = self._record(self._settings[name], folder(self._root, name, number))
            wall = _WALL() - begin
            self._tell(f"run {number + 1}, {name}: {took:.1f} s of a core, {wall:.1f} s by the wall")

    def _judge(self, rounds: int) -> int:
        """Print all figures; how many do not hold."""
        models = [self._model(number) for number in range(rounds + 1)]
        failures = self._compare_schedules()
        replayed = self._asked(self._first, models)
        self._print(self._first, replayed, [self._figures(said["replayed"]) for said in replayed])
        for name in self._others:
            changed = [f"--set={self._called[key]}={value}" for key, value in self._settings[name].items()]
            told = [said["predicted"] for said in self._asked(self._first, models, *changed)]
            figures = [self._figures(each) for each in told]
            around = [
                {figure: (before[figure] + after[figure]) / 2 for figure in before}
                for before, after in pairwise(figures)
            ]
            failures += self._print(name, self._asked(name, models[:-1]), around, "foretold")
            self._tell(f"{name}: foretold preemptions {[each['preemptions'] for each in told]}")
        return failures

    def _compare_schedules(self) -> int:
        """In how many runs the policy forms other batches than the engine did."""
        failures = 0
        for path in sorted(self._root.glob("*/*/")):
            what = compared(path)
            failures += not what.same
            said = f"of {what.iterations} batches the policy forms {what.different} otherwise"
            self._tell(f"{path.parent.name}/{path.name}: {said}{what.first and ': ' + what.first}", _mark(what.same))
        return failures

    def _asked(self, name: str, models: list[Path], *changed: str) -> list[dict[str, Any]]:
        """What ``whatif`` says of the runs with this setting, each by the model of its round."""
        return [
            _said("whatif", folder(self._root, name, number), "--model", model, *changed)
            for number, model in enumerate(models)
        ]

    def _model(self, number: int) -> Path:
        run = folder(self._root, self._first, number)
        model = run.with_name(f"{number}.json")
        said = _said("fit", run, "--out", model)
        constants = (f"{name} {1e6 * each['value']:.3g} us" for name, each in said["constants"].items())
        self._tell(f"model {number + 1}, fitted to {said['depth']}: {', '.join(constants)}")
        return model

    def _tell(self, text: str, mark: str = "   ") -> None:
        print(f"{mark} {self._engine}: {text}", flush=True)

    def _print(self, name: str, ran: list[dict[str, Any]], told: list[dict[str, float]], how: str = "replayed") -> int:
        """A line a figure; of those foretold, how many are not so. ``ran``: what ``whatif`` said of the runs."""
        missed = 0
        recorded = [self._figures(said["recorded"]) for said in ran]
        for figure in recorded[0]:
            if figure.endswith("p99") and ran[0]["requests"] < FEWEST_FOR_P99:
                continue
            was, now = [each[figure] for each in recorded], [each[figure] for each in told]
            apart, apart_told, off = _spread(was), _spread(now), sum(now) / sum(was) - 1
            promised = self._known.get(name, {}).get(figure, TOLERANCE)
            good = abs(off) <= max(promised, apart, apart_told)
            missed += not good
            self._tell(
                f"{name}: {figure}: {sum(was) / len(was):.4g}, spread of {len(was)} {apart:.1%}; "
                f"{how} {sum(now) / len(now):.4g}, spread {apart_told:.1%}, "
                f"off {off:+.1%}{'' if promised == TOLERANCE else f' (known: up to {promised:.0%})'}",
                _mark(good) if how == "foretold" else "   ",
            )
        self._print_parts(name, ran)
        return missed

    def _print_parts(self, name: str, ran: list[dict[str, Any]]) -> None:
        """Where the models err in these runs, and what limited the batch."""
        for what, part in PARTS.items():
            offs = ("unknown" if (off := said["errors"][part]) is None else f"{off:+.1%}" for said in ran)
            self._tell(f"{name}: off, run by run, {what}: {', '.join(offs)}")
        limits = ran[0]["recorded"]["limited_by"]
        shares = ", ".join(f"{cause} {share:.0%}" for cause, share in limits.items() if share)
        evicted = [said["recorded"]["preemptions"] for said in ran]
        self._tell(f"{name}: limited by {shares}; preemptions {evicted}")

    def _figures(self, scenario: dict[str, Any]) -> dict[str, float]:
        """By name: seconds, and tokens a second."""
        found = {
            f"{short} {statistic}": float(scenario[latency][statistic])
            for latency, short in LATENCIES.items()
            for statistic in STATISTICS
        }
        return found | {"tokens/s": self._tokens / float(scenario["seconds"])}


def _mark(good: bool) -> str:
    return "ok " if good else "NOT"


def _spread(values: list[float]) -> float:
    """How far they lie apart, over their mean."""
    return (max(values) - min(values)) * len(values) / sum(values)


def _said(command: str, *arguments: Any) -> dict[str, Any]:
    """What a command of batchscope prints with ``--json``."""
    words = [sys.executable, "-m", "batchscope", command, *map(str, arguments), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[2:])}: exit code {done.returncode}: {done.stderr.strip()}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said
