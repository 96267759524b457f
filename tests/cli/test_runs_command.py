"""``--record`` keeps what a command served; ``batchscope runs`` lists it."""

import json

from command_line import HEADER, ROWS, batchscope, refused

from batchscope import decode_snapshot
from batchscope.ledger import find_runs, open_run


def test_a_recorded_demo_is_listed_with_the_figures_of_its_report(tmp_path):
    run = batchscope("demo", "--requests", 200, "--json", "--record", tmp_path / "runs")
    snapshot = decode_snapshot(run.output)
    (folder,) = find_runs(tmp_path / "runs")
    assert f"note: recorded to {folder}" in run.errors
    listed = json.loads(batchscope("runs", tmp_path / "runs", "--json").output)["runs"]
    assert [(each["name"], each["state"], each["engine"]["kind"]) for each in listed] == [
        (folder.name, "finished", "simulator")
    ]
    requests, summary = snapshot.request_stats, listed[0]["summary"]
    assert (summary["requests"], summary["completed"]) == (requests.total_requests, requests.completed_requests)
    shown = batchscope("runs", tmp_path / "runs").output
    assert folder.name in shown
    assert "simulator" in shown


def test_a_recorded_replay_has_every_request_of_the_trace(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text(HEADER + "".join(ROWS))
    assert batchscope("replay", trace, "--record", tmp_path / "runs").code == 0
    requests = open_run(tmp_path / "runs").requests()
    assert sorted(requests.column("prompt_tokens").to_pylist()) == [374, 396, 879]


def test_what_cannot_be_recorded_or_listed_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert refused(batchscope("runs", tmp_path / "none"), "none", "cannot be read")
    assert refused(batchscope("runs", tmp_path / "file"), "file", "cannot be read")
    assert refused(batchscope("demo", "--requests", 5, "--record", tmp_path / "file"), "--record", "can be written")
    assert refused(batchscope("serve", tmp_path, "--record", tmp_path), "--record", "--replay TRACE or --demo")
