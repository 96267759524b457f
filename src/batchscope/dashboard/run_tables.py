"""The tables of a run's report: each row a figure with what it means, of how many, and over which time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from batchscope.dashboard.html_file import TABLE_END, head, note, row, tile
from batchscope.ledger.analysis.report import RunReport
from batchscope.ledger.explain import Explanation, Metric
from batchscope.scraping.table import Quantity
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.text import shown
from batchscope.views import palette
from batchscope.views.board import Board, Latency, Slo
from batchscope.views.explanation import METRIC, part_name, sentence
from batchscope.views.numbers import (
    MISSING,
    amount,
    count,
    duration,
    in_one_unit,
    per_second,
    percent,
    percent_range,
)
from batchscope.views.samples import FEWEST, tells
from batchscope.views.steady import COLUMNS, compared
from batchscope.views.words import limiter_name, missed_by, short_name, what_it_is

DEFINITIONS = {
    Quantity.QUEUE_TIME: "first scheduled - arrived",
    Quantity.TIME_TO_FIRST_TOKEN: "first token - arrived",
    Quantity.PREFILL_TIME: "first token - first scheduled",
    Quantity.TIME_PER_OUTPUT_TOKEN: "(last token - first token) / (tokens - 1), one a request of two tokens or more",
    Quantity.INTER_TOKEN_LATENCY: "gap between emissions over the tokens of the later one, every token",
    Quantity.INTER_EMISSION_LATENCY: "gap between emissions, every emission",
    Quantity.DECODE_TIME: "last token - first token",
    Quantity.PREEMPTED_TIME: "evicted until scheduled again, summed",
    Quantity.TOTAL_TIME: "finished - arrived",
    Quantity.ITERATION_DURATION: "end - start, every iteration",
}
_PERCENTILES = tuple(FEWEST)
_WORST = 5


def main_tiles(figures: Board, snapshot: MetricsSnapshot) -> Iterator[str]:
    """The figures that people look for first."""
    batch, requests, throughput = figures.batch, figures.requests, figures.throughput
    span, iterations = duration(figures.elapsed_seconds), count(batch.iterations)
    ended = (
        f"{count(requests.completed)} completed, {count(requests.failed)} failed, {count(requests.cancelled)} cancelled"
    )
    unfinished = f", {count(requests.in_flight)} unfinished" if requests.in_flight else ""
    again = snapshot.totals.recomputed_tokens
    full = f"requests x time / places x time, while busy; n={iterations} iterations"
    yield tile("Batch full", percent(batch.full_by_time), full)
    yield tile("Busy", percent(batch.busy_ratio), f"time in iterations / time, over {span}")
    yield tile("Requests finished", count(requests.finished), ended + unfinished)
    yield tile(
        "Output tokens",
        f"{per_second(throughput.output_tokens)}/s",
        f"{count(snapshot.totals.generation_tokens)} over {span}",
    )
    yield tile(
        "Preemptions",
        count(figures.kv_cache.preemptions),
        f"{count(again)} tokens computed again" if again else f"n={iterations} iterations",
    )
    for slo in figures.slo[:2]:
        between = f"95 % range {percent_range(*slo.attainment_range)}; n={count(slo.evaluated)}"
        yield tile(f"SLO met, {slo.request_class}", percent(slo.attainment), between)


def latency_rows(figures: Board) -> Iterator[str]:
    """A row a latency; a percentile that too few values tell is left out, the maximum is told."""
    yield head("latency", "n", "unit", "mean", *_PERCENTILES, "max")
    for name in DEFINITIONS:
        latency = figures.latencies.get(name)
        if latency is not None and latency.count:
            yield _latency(latency)
    yield TABLE_END


def _latency(of: Latency) -> str:
    values = [getattr(of, name).value if tells(name, of.count) else float("nan") for name in _PERCENTILES]
    unit, texts = in_one_unit((of.mean, *values, of.max.value))
    return row(_named(short_name(of.quantity), DEFINITIONS[Quantity(of.quantity)]), count(of.count), unit, *texts)


def limiter_rows(figures: Board) -> Iterator[str]:
    """A row a limiter: for how long it held the batch, and what that cost."""
    yield head("held by", "share", "for", "lost slot-seconds", "waited request-seconds", "which is")
    for one in figures.held:
        mark = palette.LIMITERS.get(one.limiter, palette.NEWER)
        letter = escape(mark.lettered(figures.reported_ratio))
        name = (
            f'<span class="swatch" style="--c:{mark.color}"></span>'
            f'<span class="letter">{letter}</span> {escape(limiter_name(one.limiter))}'
        )
        cells = (
            percent(one.share),
            duration(one.seconds),
            amount(one.lost_slot_seconds),
            amount(one.waiting_request_seconds),
        )
        yield row(name, *cells, words=what_it_is(one.limiter, figures.limits))
    yield TABLE_END
    yield note(
        "Lost slot-seconds: (places - requests in the batch) x time. Waited request-seconds: requests that could run "
        f"and did not x time. n={count(figures.batch.iterations)} iterations, over {duration(figures.elapsed_seconds)}."
        " A share of time is not what turning a setting would gain."
    )


def slo_rows(figures: Board) -> Iterator[str]:
    """A row a class."""
    yield head("class", "met", "95 % range", "n", "goodput", "targets")
    for slo in figures.slo:
        yield row(
            escape(slo.request_class), percent(slo.attainment), percent_range(*slo.attainment_range),
            count(slo.evaluated), f"{per_second(slo.goodput)}/s", words=_targets(slo),
        )  # fmt: skip
    yield TABLE_END
    yield note(
        "Met / (met + missed); missed: failed, or a target passed. Goodput: requests a second that met all of theirs, "
        f"over {duration(figures.elapsed_seconds)}."
    )


def _targets(slo: Slo) -> str:
    told = [f"{short_name(name)} <= {duration(value)}" for name, value in slo.targets.items()]
    missed = missed_by(slo)
    left_out = [f"{count(number)} {words}" for number, words in
                ((slo.not_evaluated, "not evaluated"), (slo.unmeasured, "not measured")) if number]  # fmt: skip
    parts = [", ".join(told), f"missed by {', '.join(missed)}" if missed else "", ", ".join(left_out)]
    return "; ".join(filter(None, parts))


def slowest_panel(explanation: Explanation) -> tuple[str, str, Iterator[str]]:
    """Why the slowest by one metric were slow: title, sentence, and each part of their time beside the others'."""
    slowest = explanation.slowest
    name = METRIC[slowest.metric] if slowest is not None else ""
    return f"Why the slowest were slow: {name}", sentence(explanation), _slowest(explanation)


def _slowest(explanation: Explanation) -> Iterator[str]:
    slowest = explanation.slowest
    if slowest is None:
        return
    per = " an output token" if slowest.metric is Metric.TPOT else ""
    yield head("part of the time", "of theirs", "of the others'", f"their mean{per}", "the others' mean")
    for part in slowest.parts:
        yield row(
            escape(part_name(part.part, part.limiter, modelled=part.modelled)), percent(part.share),
            _known(part.share_of_others, percent), duration(part.mean), _known(part.mean_of_others, duration),
        )  # fmt: skip
    yield TABLE_END
    worst = ", ".join(f"{shown(each.request_id, 60)} ({duration(each.value)})" for each in slowest.worst[:_WORST])
    among = (
        f"n={count(slowest.requests)} of {count(slowest.requests + slowest.others)}, from {duration(slowest.threshold)}"
    )
    yield note(
        f"{among} on. The worst: {worst}. batchscope explain tells more of each, and when they were slow together."
    )
    yield from (note(text) for text in explanation.notes)


def _known(value: float | None, form: Callable[[float], str]) -> str:
    return MISSING if value is None else form(value)


def steady_rows(report: RunReport) -> Iterator[str]:
    """The main figures of the whole, and without warm-up and drain."""
    if report.steady is None:
        return
    yield head(*COLUMNS)
    for name, *values in compared(report):
        yield row(escape(name), *values)
    yield TABLE_END


def _named(name: str, definition: str) -> str:
    return f'{escape(name)} <span class="note">{escape(definition)}</span>'
