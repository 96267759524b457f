"""The head of a report: what came, what became of it, what held the batch, and what should not be there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from batchscope.records import BatchLimiter, CompletionReason, Outcome
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.text import shown
from batchscope.views.numbers import MISSING, amount, count, per_second, percent, rate
from batchscope.views.words import holders

_FRAME = 18
"""Columns of the head that are not its figures: the frame and the names of its lines."""
_SHOWN_NAMES = 3
_LARGE = 0.05
"""A part that is worth a note."""


class Head:
    """``snapshot`` as it may be shown; ``why_refused``: why requests were refused at admission, where that is known."""

    def __init__(self, snapshot: MetricsSnapshot, title: str, why_refused: str, *, interrupted: bool) -> None:
        self._snapshot = snapshot
        self._title = title or _identity(snapshot)
        self._why_refused = why_refused
        self._interrupted = interrupted

    def panel(self, width: int) -> Panel:
        """A frame of ``width`` columns around a line for each answer; the title is in it where it has room."""
        interrupted = "  INTERRUPTED: what ran so far" if self._interrupted else ""
        title = Text.assemble(("batchscope", "bold cyan"), f"  {self._title}", (interrupted, "bold red"))
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="dim", no_wrap=True)
        lines.add_column(overflow="fold")
        if title.cell_len > width - 8:
            title = Text.assemble(("batchscope", "bold cyan"), (interrupted, "bold red"))
            lines.add_row("of", self._title)
        for name, items in self._lines():
            lines.add_row(name, _flow(items, width - _FRAME))
        color = "red" if self._interrupted else "cyan"
        return Panel(lines, title=title, title_align="left", border_style=color, box=box.ROUNDED)

    def _lines(self) -> Iterator[tuple[str, list[Text]]]:
        yield "requests", list(self._requests())
        if self._refused:
            yield "refused", list(self._refusal())
        yield "throughput", list(self._throughput())
        window = self._snapshot.window
        if window.window_seconds < window.elapsed_seconds:
            yield f"last {window.window_seconds:g} s", list(self._recent())
        yield "batch", [self._fullness()]
        demand_tells = not self._mostly_refused
        held_by = [text for name, text in holders(self._snapshot) if name != BatchLimiter.DEMAND or demand_tells]
        if held_by:
            yield "held by", [Text(text, "bold") for text in held_by]
        if troubles := [Text(text, "yellow") for text in self._troubles()]:
            yield "to note", troubles

    def _requests(self) -> Iterator[Text]:
        requests, totals = self._snapshot.request_stats, self._snapshot.totals
        yield Text.assemble(
            (count(totals.requests_received), "bold"),
            " arrived:  ",
            (f"{count(requests.completed_requests)} completed", "green"),
        )
        yield Text(f"{count(requests.failed_requests)} failed{self._reasons(Outcome.FAILED)}")
        yield Text(f"{count(requests.cancelled_requests)} cancelled")
        if in_flight := self._snapshot.gauges.requests_in_flight:
            yield Text(f"{count(in_flight)} still in flight", "bold")

    def _reasons(self, outcome: Outcome) -> str:
        by_reason = self._snapshot.totals.requests_by_reason
        named = [f"{reason} {count(by_reason[reason])}" for reason in CompletionReason
                 if reason.outcome is outcome and by_reason.get(reason)]  # fmt: skip
        return f" ({', '.join(named)})" if named else ""

    @property
    def _refused(self) -> int:
        return self._snapshot.totals.requests_by_reason.get(CompletionReason.REJECTED, 0)

    @property
    def _mostly_refused(self) -> bool:
        return 2 * self._refused > self._snapshot.request_stats.total_requests

    def _refusal(self) -> Iterator[Text]:
        """Said in the head, since what was never admitted shows nowhere else."""
        most = "most requests: " if self._mostly_refused else ""
        of = f"{count(self._refused)} of {count(self._snapshot.request_stats.total_requests)}"
        yield Text(f"{most}{of}, at admission", "bold red")
        if self._why_refused:
            yield Text(self._why_refused, "bold")

    def _throughput(self) -> Iterator[Text]:
        totals, seconds = self._snapshot.totals, self._snapshot.elapsed_seconds
        cached = totals.prompt_tokens_cached or 0
        prompt = (totals.prompt_tokens_computed or 0) + cached
        yield Text(f"{rate(self._snapshot.request_stats.total_requests, seconds)} requests/s")
        yield Text(f"{rate(totals.generation_tokens, seconds)} output tokens/s")
        of_it = f" ({percent(cached / prompt)} cached)" if cached else ""
        yield Text(f"{rate(prompt, seconds)} prompt tokens/s{of_it}")

    def _recent(self) -> Iterator[Text]:
        requests = self._snapshot.request_stats
        yield Text(f"{per_second(requests.requests_per_second)} requests/s")
        yield Text(f"{per_second(requests.tokens_per_second)} output tokens/s")

    def _fullness(self) -> Text:
        iterations = self._snapshot.iteration_stats
        if not math.isnan(iterations.time_weighted_utilization):
            return Text.assemble((percent(iterations.time_weighted_utilization), "bold"), " full while busy")
        if math.isnan(iterations.average_requests_per_iteration):
            return Text(MISSING)
        return Text.assemble(
            (amount(iterations.average_requests_per_iteration), "bold"),
            " requests an iteration; of how many is not known (max_running_requests)",
        )

    def _troubles(self) -> Iterator[str]:
        """What should be 0 and is not, and figures that cannot both be right."""
        totals, overdue = self._snapshot.totals, sum(self._snapshot.gauges.requests_overdue.values())
        if overdue:
            yield f"{count(overdue)} unfinished and past their SLO"
        if totals.requests_lost:
            yield f"{count(totals.requests_lost)} lost"
        if errors := self._snapshot.error_stats.errors_by_type:
            yield f"{count(sum(errors.values()))} errors ({_most(errors)})"
        if rejected := self._snapshot.request_stats.rejected_records:
            yield f"{count(sum(rejected.values()))} records rejected ({_most(rejected)})"
        if totals.dropped_records:
            yield f"{count(totals.dropped_records)} records dropped"
        yield from self._thrash()
        yield from self._contradictions()

    def _thrash(self) -> Iterator[str]:
        """Preempted requests are computed again: work without a result."""
        totals = self._snapshot.totals
        again, prefill = totals.recomputed_tokens or 0, totals.scheduled_prefill_tokens or 0
        after = f"{count(totals.preemptions)} preemptions"
        if again and again >= _LARGE * prefill:
            of = f" of {count(prefill)} prefill tokens ({percent(again / prefill)})" if prefill else " tokens"
            yield f"{count(again)}{of} were computed again, after {after}"
        elif totals.preemptions > _LARGE * totals.requests_received:
            yield f"{after} of {count(totals.requests_received)} requests"

    def _contradictions(self) -> Iterator[str]:
        """What an integration said that cannot be."""
        totals, places = self._snapshot.totals, self._snapshot.limits.max_running_requests
        idle = totals.busy_seconds_by_limiter.get(BatchLimiter.DEMAND, 0.0)
        waited = totals.waiting_request_seconds_by_limiter.get(BatchLimiter.DEMAND, 0.0)
        if waited > _LARGE * idle > 0:
            mean = amount(waited / idle)
            yield f"demand was reported while requests waited ({mean} on average): say what kept them out"
        largest = self._snapshot.batch_stats.max_batch_size or 0
        if places is not None and largest > places:
            yield f"the largest batch had {count(largest)} requests, and max_running_requests is {count(places)}"


def _flow(items: Sequence[Text], room: int) -> Text:
    """The items beside each other, and on the next line what has no room: an item is not torn."""
    text, used = Text(), 0
    for item in items:
        begins = not used or used + 3 + item.cell_len > room
        if used:
            text.append("\n" if begins else "   ")
        text.append(item)
        used = item.cell_len if begins else used + 3 + item.cell_len
    return text


def _most(counts: Mapping[str, int]) -> str:
    """The largest of them, by name."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    named = [f"{shown(name, 60)} {count(number)}" for name, number in ordered[:_SHOWN_NAMES]]
    return ", ".join([*named, *["..."] * (len(ordered) > _SHOWN_NAMES)])


def _identity(snapshot: MetricsSnapshot) -> str:
    """Whose snapshot it is, and of when."""
    labels = [f"{name}={value}" for name, value in snapshot.labels.items()]
    merged = [f"{len(snapshot.merged_from)} processes"] if len(snapshot.merged_from) > 1 else []
    at = f"{snapshot.snapshot_time:%Y-%m-%d %H:%M:%S %Z}"
    return ", ".join(
        [*filter(None, [f"{snapshot.engine.kind} {snapshot.engine.version}".strip()]), *labels, *merged, at]
    )
