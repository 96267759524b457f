"""Others' files as a run of ours: they are replayed into a collector whose rows the ledger's writer takes."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from batchscope.collector import SchedulerMetricsCollector
from batchscope.configuration import SchedulerLimits
from batchscope.errors import ConfigurationError, WorkloadError
from batchscope.histograms.cells import FURTHEST
from batchscope.importing.content import Content, content_of
from batchscope.records import EngineInfo
from batchscope.simulator.policies import POLICIES
from batchscope.simulator.virtual_clock import VirtualClock
from batchscope.sinks import Drained, Missed, PatientSink, RunHeader

if TYPE_CHECKING:
    from batchscope.ledger.writer import RunWriter

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
RECORDS_BETWEEN_DRAINS = 1000


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the user knows of the engine and its files may not say; ``None`` = not given."""

    max_running_requests: int | None = None
    max_scheduled_tokens: int | None = None
    kv_cache_blocks: int | None = None
    kv_block_size: int | None = None
    policy: str | None = None


class ImportSource(msgspec.Struct, kw_only=True):
    """What a reader found: how it is replayed, and what it says of the engine.

    ``replay`` yields after each record, so that rows are written in parts. Instants are of a clock that showed
    ``anchor_instant`` at ``anchor_time``. ``missing`` names what the files do not say, a phrase each.
    ``prefixes``: by request id, the names of its prompt's full blocks of ``prefix_block_tokens`` tokens.
    """

    format: str
    replay: Callable[[SchedulerMetricsCollector, VirtualClock], Iterable[Missed | None]]
    engine: EngineInfo = EngineInfo()
    limits: SchedulerLimits = SchedulerLimits()
    labels: dict[str, str] = {}
    definitions: dict[str, str] = {}
    configuration: dict[str, Any] = {}
    anchor_instant: float = 0.0
    anchor_time: dt.datetime = EPOCH
    missing: list[str] = []
    notes: list[str] = []
    prefixes: dict[str, list[int]] = {}
    prefix_block_tokens: int = 0


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What was imported to where. ``rows`` by table; ``rejected``: records that were wrong, by reason."""

    path: str
    format: str
    rows: dict[str, int]
    missing: list[str]
    notes: list[str]
    rejected: dict[str, int]


def import_run(files: Sequence[Path], to: Path, given: Given | None = None) -> Imported:
    """Make the run ``to`` of ``files``; ``WorkloadError`` for files that cannot be read, or do not belong together.

    What is wrong with a file is said before ``to`` is made, as far as it can be known without reading all of it; else
    ``to`` is as it was.
    """
    given = given or Given()
    if given.policy is not None and given.policy not in POLICIES:
        raise ConfigurationError("policy", given.policy, f"one of {', '.join(POLICIES)}")
    source = _source({path: content_of(path) for path in map(Path, files)})
    return _write(source, _checked(to), given, [Path(path).name for path in files])


def check_in_reach(where: str, *seconds: float) -> None:
    """``WorkloadError`` that names ``where``, for instants and durations beyond what a collector takes; nan is none."""
    for value in seconds:
        if abs(value) > FURTHEST:
            raise WorkloadError(f"{where}: {value:g} s: expected instants and durations within +-{FURTHEST:g} s")


def _source(contents: dict[Path, Content]) -> ImportSource:
    from batchscope.importing import benchmark, forward_passes, vidur, vllm_requests  # noqa: PLC0415  (they need it)

    readers = {
        Content.FORWARD_PASSES: forward_passes.source,
        Content.BENCHMARK: benchmark.source,
        Content.VLLM_REQUESTS: vllm_requests.source,
        Content.VIDUR_REQUESTS: vidur.source,
        Content.VIDUR_REQUEST_METRICS: vidur.metrics_source,
    }
    leading = {content for content in contents.values() if content in readers}
    if len(leading) != 1:
        raise WorkloadError(_unusable(contents, leading))
    return readers[leading.pop()](contents)


def _unusable(contents: dict[Path, Content], leading: set[Content]) -> str:
    found = "; ".join(f"{path.name}: {content.value}" for path, content in contents.items())
    if leading:
        return f"these files are of different runs ({found}): expected one kind, import them one by one"
    if Content.BENCHMARK_SUMMARY in contents.values():
        return f"{found}: no request in it; run vllm bench serve with --save-result --save-detailed"
    return f"{found}: no requests and no iterations in it; expected the file that has them, too"


def only(contents: dict[Path, Content], content: Content) -> Path | None:
    """The file of a kind that a run has one of; ``WorkloadError`` for several."""
    found = [path for path, kind in contents.items() if kind is content]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise WorkloadError(f"{names}: {content.value} twice, expected the files of one run")
    return found[0] if found else None


def _checked(to: Path) -> Path:
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigurationError("to", str(to), "a folder that is not there yet, or empty")
    return to


def _write(source: ImportSource, to: Path, given: Given, names: list[str]) -> Imported:
    from batchscope.ledger.document import RunDocument  # noqa: PLC0415  (an extra)
    from batchscope.ledger.prefixes import write_prefixes  # noqa: PLC0415
    from batchscope.ledger.run import Run  # noqa: PLC0415
    from batchscope.ledger.writer import RunWriter  # noqa: PLC0415

    limits = _limits(source.limits, given)
    missing = [*source.missing, *_unknown(limits)]
    configuration = dict(source.configuration)
    if given.policy:
        configuration["policy"] = given.policy
    configuration["imported"] = {"format": source.format, "files": names, "missing": missing, "notes": source.notes}
    clock = VirtualClock(source.anchor_instant)
    with (
        SchedulerMetricsCollector(limits=limits, labels=source.labels, clock=clock) as collector,
        _folder_of_a_whole_run(to),
    ):
        collector.engine = source.engine
        collector.definitions.update(source.definitions)
        writer = RunWriter(to, RunDocument(configuration=configuration), clock)
        try:
            _replay(source, collector, clock, writer)
        finally:
            writer.leave()
        rejected = dict(collector.get_request_statistics().rejected_records)
        run = Run(to)
        if run.document.stopped_by:
            raise ConfigurationError("to", str(to), f"a folder that takes all of it ({run.document.stopped_by})")
        if not run.document.rows:
            raise WorkloadError(f"{', '.join(names)}: {_nothing(source, rejected)}; expected what ended or ran")
        if source.prefixes:
            write_prefixes(to, source.prefix_block_tokens, run.requests(), source.prefixes)
    return Imported(
        path=str(to),
        format=source.format,
        rows=dict(run.document.rows),
        missing=missing,
        notes=source.notes,
        rejected=rejected,
    )


def _replay(source: ImportSource, collector: SchedulerMetricsCollector, clock: VirtualClock, writer: RunWriter) -> None:
    """Record all of it; a run in the end that says that it is whole, or why it is not."""
    end = collector.subscribe(_Anchored(writer, source.anchor_instant, source.anchor_time))
    for count, missed in enumerate(source.replay(collector, clock), start=1):
        if missed is not None:
            writer.missed(missed)
        if count % RECORDS_BETWEEN_DRAINS == 0:
            collector.drain()
            writer.flush()
    writer.document.in_flight = collector.get_snapshot().gauges.requests_in_flight
    end()
    writer.close({})


def _nothing(source: ImportSource, rejected: dict[str, int]) -> str:
    """Why there is nothing to record."""
    told = [*source.notes, *(f"records that cannot be true: {count:,} ({why})" for why, count in rejected.items())]
    return f"nothing to record in it ({'; '.join(told) or 'no row'})"


@contextlib.contextmanager
def _folder_of_a_whole_run(to: Path) -> Iterator[None]:
    """Make the folder; where what follows fails or is interrupted, nothing of it stays."""
    empty = to.exists()
    try:
        to.mkdir(parents=True, exist_ok=empty)
    except OSError as error:
        raise ConfigurationError("to", str(to), f"a folder that can be made ({error.strerror})") from error
    try:
        yield
    except BlockingIOError:  # what lies there is another import's
        raise ConfigurationError("to", str(to), "a folder that nobody else imports to") from None
    except BaseException as error:
        shutil.rmtree(to, ignore_errors=True)
        if empty:
            to.mkdir(exist_ok=True)
        if isinstance(error, OSError):  # the files that are read say theirs as WorkloadError
            raise ConfigurationError("to", str(to), f"a folder that can be written ({error.strerror})") from error
        raise


def _limits(found: SchedulerLimits, given: Given) -> SchedulerLimits:
    fields = {name: getattr(given, name) for name in found.__struct_fields__ if getattr(given, name, None) is not None}
    return msgspec.structs.replace(found, **fields)


def _unknown(limits: SchedulerLimits) -> list[str]:
    """The limits that nobody told: a simulation needs them."""
    options = {
        name: f"--{name.replace('_', '-')}"
        for name in ("max_running_requests", "max_scheduled_tokens", "kv_cache_blocks", "kv_block_size")
    }
    return [f"{name} (give {option})" for name, option in options.items() if getattr(limits, name) is None]


class _Anchored:
    """Tells ``writer`` when the run was, which is not now."""

    def __init__(self, writer: PatientSink, instant: float, time: dt.datetime) -> None:
        self._writer = writer
        self._instant, self._time = instant, time

    def begin(self, header: RunHeader) -> None:
        anchored = msgspec.structs.replace(
            header, started_at=self._time, anchor_instant=self._instant, anchor_time=self._time, simulated=False
        )
        self._writer.begin(anchored)

    def take(self, block: Drained) -> None:
        self._writer.take(block)

    def end(self) -> None:
        self._writer.end()
