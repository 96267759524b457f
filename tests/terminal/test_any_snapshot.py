"""Whatever a document says, of whatever version: a screen without an exception, each line as wide as the screen."""

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scenes import END, NOON, text_of
from test_report_view import SNAPSHOTS

from batchscope import decode_snapshot
from batchscope.records import EngineInfo
from batchscope.statistics.summaries import ErrorStatistics, ResourceStatistics, SloStatistics
from batchscope.terminal.engine import Engine
from batchscope.terminal.frame import Scene, Viewing, frame, page
from batchscope.terminal.lines import cut, cut_inside, fitted, width_of, wrapped
from batchscope.terminal.sources import Look

NAMES = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        [
            "x" * 300,
            "\x1b[31mred",
            "\u202eevil",
            "語" * 150,
            "👩‍👩‍👧‍👦" * 40,
            "e\u0301" * 99,
            "\ud800",
            "",
            "a\nb",
            "\u05e9\u05dc\u05d5\u05dd",
            "\u00b9",
        ]
    ),
)
SIZES = st.tuples(st.integers(1, 220), st.integers(1, 70)) | st.sampled_from([(80, 24), (120, 40), (60, 12)])


@st.composite
def named(draw):
    """A snapshot in which everything that somebody else names has an awkward name."""
    snapshot, name = draw(SNAPSHOTS), draw(NAMES)
    stats = snapshot.iteration_stats
    return msgspec.structs.replace(
        snapshot,
        iteration_stats=msgspec.structs.replace(stats, limited_by={**stats.limited_by, name: 0.4}, lost_slot_seconds={name: 9.0}),
        slo_stats={**snapshot.slo_stats, name: SloStatistics(targets={name: 1.0}, evaluated=9, met=8, missed_by={name: 1}, attainment=8 / 9)},
        error_stats=ErrorStatistics(total_errors=3, errors_by_type={name: 3}),
        labels={name: name},
        engine=EngineInfo(name, name),
        resource_stats={"gpu": ResourceStatistics("gpu", name, "power_watts", "", draw(st.floats()))},
        elapsed_seconds=draw(st.floats(0, 1e6)),
    )  # fmt: skip


@settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(named(), min_size=1, max_size=3), NAMES, SIZES, st.booleans(), st.floats(0, 1e5))
def test_no_document_breaks_a_screen(snapshots, name, size, several, later):
    one = Engine(name, name, 1.0)
    for place, snapshot in enumerate(snapshots):
        same = msgspec.structs.replace(snapshot, elapsed_seconds=snapshot.elapsed_seconds + place)
        one.looked(Look(same, notes=(name,)), END + place)
    other = Engine("other", "other", 1.0)
    other.failed(name)
    shown = [engine.shown(END + later) for engine in ((one, other) if several else (one,))]
    scene = Scene(shown, shown[0] if several else None, shown, None, NOON, 1.0, notes=[name])
    for viewing in (
        Viewing(),
        Viewing(selected=name, detail=True),
        Viewing(wanted=name, typing=True),
        Viewing(help=True),
    ):
        found = frame(scene, viewing, *size).lines
        width, height = size
        assert [len(found), *{width_of(line) for line in found}] == [height, width]
        assert "".join(map(text_of, found)).isprintable()
    assert {width_of(line) for line in page(scene, Viewing(), 80)} == {80}


@given(NAMES, st.integers(0, 100))
def test_a_text_is_cut_to_the_cells_there_are(text, width):
    assert width_of([(cut(text, width), "")]) <= width
    assert width_of([(cut_inside(text, width), "")]) <= width
    if width:
        assert width_of(fitted([(text, "a"), (text, "b")], width)) == width
        assert all(width_of([(line, "")]) <= max(width, 2) for line in wrapped(text, max(width, 2), 3))


def test_what_a_newer_version_adds_and_an_older_one_lacks_is_shown_sensibly():
    newer = decode_snapshot(
        b'{"schema": "batchscope.snapshot/1", "request_stats": {"new": 1}, "iteration_stats": {"limited_by": {"fusion": 0.7}},'
        b' "batch_stats": {}, "error_stats": {}, "snapshot_time": "2030-01-01T00:00:00Z", "started_at": "2030-01-01T00:00:00Z",'
        b' "quantum": {"a": 1}}'
    )
    one = Engine("e", "e", 1.0)
    one.looked(Look(newer), 0.0)
    scene = Scene([one.shown(0.5)], None, [one.shown(0.5)], None, NOON, 1.0)
    text = "\n".join(map(text_of, frame(scene, Viewing(detail=True), 80, 24).lines))
    assert "? fusion 70.0 %" in text
    assert "none is set: MetricsConfiguration(slo=SloTargets(...))" in text
