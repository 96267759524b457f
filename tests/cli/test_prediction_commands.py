"""``fit``, ``whatif``, ``score``, ``capacity`` and ``advise`` on a run that was recorded: what they print, what they write, and what they refuse."""

from __future__ import annotations

import json
import re

import pytest
from command_line import Run, batchscope, refused

from batchscope import SchedulerMetricsCollector
from batchscope.cli import run as command
from batchscope.cli.fit import in_microseconds

FIGURES = {"mean", "p50", "p90", "p95", "p99", "low", "high"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The demo, recorded."""
    root = tmp_path_factory.mktemp("runs")
    assert batchscope("demo", "--requests", 400, "--policy", "vllm", "--record", root).code == 0
    return root


@pytest.fixture(scope="module")
def model(run):
    path = run / "model.json"
    done = batchscope("fit", run, "--assume", "policy=vllm", "--out", path)
    assert done.code == 0, done
    for part in ("per_prefill_token", "95 % interval", "share of time", "seen in an iteration", "regression"):
        assert part in done.output
    return path


def test_a_run_of_the_simulator_says_its_rules_and_priorities_so_it_is_replayed_as_it_was(run):
    """Nothing has to be assumed of the demo; what is left is the requests that were cancelled or timed out."""
    document = json.loads(batchscope("whatif", run, "--json").output)
    assert not [note for note in document["notes"] if "policy" in note or "priorities" in note]
    for name in ("time_to_first_token", "total_time"):
        recorded, replayed = (document[each][name]["mean"] for each in ("recorded", "replayed"))
        assert replayed == pytest.approx(recorded, rel=0.1)


def test_a_replayed_run_has_the_targets_and_priorities_of_each_class(run, tmp_path):
    done = batchscope("replay", run, "--record", tmp_path, "--json")
    slo = json.loads(done.output)["slo_stats"]
    assert set(slo) == {"interactive", "batch"}
    assert all(each["met"] > 0 for each in slo.values())
    document = json.loads(batchscope("capacity", tmp_path, "--attainment", 0.8, "--json").output)
    assert set(document["slo"]) >= set(slo)
    assert not [note for note in document["notes"] if "priorities" in note]


def test_whatif_prints_recorded_replayed_predicted_and_what_limits(run, model):
    done = batchscope("whatif", run, "--model", model, "--assume", "policy=vllm", "--set", "max_running_requests=16")
    assert done.code == 0, done
    for part in ("TTFT", "TPOT", "recorded", "replayed", "predicted", "limited by", "request slots", "given the real"):
        assert part in done.output
    assert "nan" not in done.output


def test_whatif_json_has_three_scenarios_with_seven_figures_each(run, model):
    done = batchscope("whatif", run, "--model", model, "--assume", "policy=vllm", "--json", "--from", 0.5)
    document = json.loads(done.output)
    for scenario in ("recorded", "replayed", "predicted"):
        for latency in ("time_to_first_token", "time_per_output_token", "total_time"):
            assert set(document[scenario][latency]) == FIGURES
    recorded, replayed = (document[name]["total_time"]["mean"] for name in ("recorded", "replayed"))
    assert replayed == pytest.approx(recorded, rel=0.1)
    assert document["errors"]["step_time"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--set", "places=8"), ("--set places", "expected one of max_running_requests")),
        (("--set", "max_num_seqs=8"), ("--set max_num_seqs", "it is called max_running_requests here")),
        (("--set", "max_running_requests"), ("expected NAME=VALUE",)),
        (("--set", "max_running_requests=0"), ("--set max_running_requests=0",)),
        (("--rate-scale", "0"), ("--rate-scale 0",)),
        (("--from", "2"), ("--from 2",)),
        (("--model", "nowhere.json"), ("nowhere.json", "batchscope fit")),
    ],
)
def test_what_cannot_be_foretold_is_refused_in_one_line(run, model, arguments, parts, capsys):
    code = command(["whatif", str(run), "--model", str(model), "--assume", "policy=vllm", *arguments])
    told = capsys.readouterr()
    assert refused(Run(code, told.out, told.err), *parts)


def test_score_says_how_far_off_a_model_is(run, model, capsys):
    arguments = ["score", str(run), str(model), "--assume", "policy=vllm"]
    assert command([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    recorded, replayed = (document[name]["total_time"]["p90"] for name in ("recorded", "replayed"))
    assert document["off"]["total_time"]["p90"] == pytest.approx(replayed / recorded - 1)
    assert command(arguments) == 0
    assert "the worst of these figures is off by" in capsys.readouterr().out


def test_score_with_its_arguments_the_other_way_round_says_so(run, model, capsys):
    code = command(["score", str(model), str(run)])
    told = capsys.readouterr()
    assert refused(Run(code, told.out, told.err), "the other way round", "expected RUN, a folder, and then MODEL")


def test_where_whatif_and_report_are_of_other_requests_it_is_said(run, model, capsys):
    """The demo has requests that go midway: they are served, so they are replayed; a report's latencies leave them out."""
    known = [str(run), "--model", str(model), "--assume", "policy=vllm", "--json"]
    assert command(["whatif", *known]) == 0
    found = json.loads(capsys.readouterr().out)
    assert command(["report", str(run), "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)["request_stats"]["total_time"]
    [note] = [note for note in found["notes"] if "batchscope report" in note]
    assert int(note.split()[0]) == found["requests"] - reported["count"] > 0


def test_a_short_run_is_refused(tmp_path, capsys):
    assert command(["demo", "--requests", "40", "--record", str(tmp_path)]) == 0
    capsys.readouterr()
    for path, part in ((tmp_path, "at least 100"), (tmp_path / "nowhere", "nowhere")):
        code = command(["fit", str(path)])
        told = capsys.readouterr()
        assert refused(Run(code, told.out, told.err), part)


def test_capacity_prints_the_rate_the_picture_and_how_the_model_did(run, model, tmp_path, capsys):
    arguments = ["capacity", str(run), "--model", str(model), "--assume", "policy=vllm", "--attainment", "0.8"]
    assert command([*arguments, "--svg", str(tmp_path / "capacity.svg")]) == 0
    told = capsys.readouterr().out
    for part in (
        "times the recorded",
        "interactive: TTFT 2 s",
        "< capacity",
        "fails",
        "as recorded",
        "limits the batch",
    ):
        assert part in told
    assert "nan" not in told
    assert "< capacity" in (tmp_path / "capacity.svg").read_text().replace("&#160;", " ").replace("&lt;", "<")


def test_capacity_json_has_every_rate_that_was_tried(run, model, capsys):
    arguments = ["capacity", str(run), "--model", str(model), "--assume", "policy=vllm", "--slo-ttft", "20", "--json"]
    assert command(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "batchscope.capacity/1"
    assert document["slo"]["default"]["time_to_first_token"] == 20
    assert document["low"] <= document["rate"] <= document["high"]
    assert document["rate"] == pytest.approx(document["rate_scale"] * document["recorded_rate"])
    tried = document["points"]
    assert len(tried) <= 25
    assert [point["rate"] for point in tried] == sorted(point["rate"] for point in tried)
    best = next(point for point in tried if point["rate"] == document["rate"])
    assert best["holds"]
    assert best["attainment"]["value"] >= document["target"] == 0.9


def test_capacity_ends_with_1_where_no_rate_holds_and_refuses_where_nothing_can_be_said(run, model, capsys):
    arguments = ["capacity", str(run), "--model", str(model), "--assume", "policy=vllm"]
    assert command([*arguments, "--slo-tpot", "0.001"]) == 1
    assert "no rate holds, not even" in capsys.readouterr().out
    code = command([*arguments, "--limit", "50"])
    told = capsys.readouterr()
    assert refused(Run(code, told.out, told.err), "50 requests: a capacity takes at least 100")


def test_under_other_settings_the_models_share_is_not_held_against_the_recorded_one(run, model, capsys):
    arguments = ["capacity", str(run), "--model", str(model), "--assume", "policy=vllm", "--attainment", "0.5"]
    assert command([*arguments, "--set", "max_running_requests=12"]) in {0, 1}
    told = " ".join(capsys.readouterr().out.split())
    assert "with the settings that were given" in told or "the model says" not in told
    assert "far off" not in told


def test_capacity_of_a_trace_is_that_of_the_embedded_engine_or_a_models(model, tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:{second // 60:02}:{second % 60:02}.0000000,400,40\n" for second in range(300)]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(rows) + rows[-1].replace(",40\n", ",0\n"))
    assert command(["capacity", str(trace), "--slo-ttft", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rate"] > 1
    assert document["recorded"] is None
    assert "1 requests that failed at their service are left out" in document["notes"]
    assert any("Qwen-2-7B" in each for each in document["notes"])
    assert command(["capacity", str(trace), "--slo-ttft", "2", "--model", str(model), "--json"]) == 0
    assert not any("Qwen-2-7B" in each for each in json.loads(capsys.readouterr().out)["notes"])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--attainment", "1.5"), ("--attainment 1.5", "between 0 and 1")),
        (("--slo-ttft", "-1"), ("--slo-ttft -1",)),
        (("--limit", "0"), ("--limit 0",)),
        (("--set", "max_num_seqs=8"), ("--set max_num_seqs", "it is called max_running_requests here")),
        (("--slo", "chat: ttft=1"), ("--slo ttft=1", "names of time_to_first_token")),
        (("--slo", "chat: e2e_latency=-1"), ("--slo e2e_latency=-1", "seconds > 0")),
        (("--slo", "chat: e2e_latency=1", "--slo-e2e", "1"), ("--slo and --slo-ttft", "one of them")),
        (("--svg", "nowhere/x.svg"), ("--svg nowhere/x.svg",)),
    ],
)
def test_a_capacity_that_cannot_be_asked_for_is_refused_in_one_line(run, model, arguments, parts, capsys):
    code = command(["capacity", str(run), "--model", str(model), "--assume", "policy=vllm", *arguments])
    told = capsys.readouterr()
    assert refused(Run(code, told.out, told.err), *parts)


def test_a_capacity_needs_targets(tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n")
    code = command(["capacity", str(trace)])
    told = capsys.readouterr()
    assert refused(Run(code, told.out, told.err), "says no targets", "--slo-ttft")


def test_advice_is_a_setting_what_it_gains_what_gets_worse_and_the_engines_flags(run, model):
    budget = "max_scheduled_tokens"
    asked = ("advise", run, "--model", model, "--assume", "policy=vllm", "--slo-ttft", 2, "--vary", budget)
    done, document = batchscope(*asked), json.loads(batchscope(*asked, "--json").output)
    assert done.code == {"change": 0, "keep": 1, "undecided": 3}[document["verdict"]]
    for part in ("served in time", "limited by", "now", "best", "TTFT", "from the first arrival to the last end"):
        assert part in done.output
    assert "trust it no further than the replay" in " ".join(done.output.split())
    if changed := document["changed"]:
        now, best = (document[side]["goodput"] for side in ("now", "best"))
        assert best / now - 1 == pytest.approx(document["gain"])
    changed = document["changed"]
    assert set(changed) <= {budget}
    for engine, flag in (("vLLM", "--max-num-batched-tokens"), ("SGLang", "--chunked-prefill-size")):
        assert document["flags"][engine] == ({flag: changed[budget]} if changed else {})


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--slo", "chat"), ("--slo chat", "names of time_to_first_token")),
        (("--html", "nowhere/x.html"), ("--html nowhere/x.html",)),
        (("--slo-ttft", 1e-6), ("none of", "serves anybody", "1e-06 s")),
        (("--slo-ttft", 2, "--vary", "colour"), ("colour", "max_running_requests")),
        (("--slo-ttft", 2, "--try-policy", "best"), ("best", "sglang")),
        (("--slo-ttft", -1), ("-1", "seconds")),
    ],
)
def test_advice_that_cannot_be_given_is_refused_in_one_line(run, model, arguments, parts, capsys):
    code = command([str(part) for part in ("advise", run, "--model", model, "--assume", "policy=vllm", *arguments)])
    told = capsys.readouterr()
    assert refused(Run(code, told.out, told.err), *parts)


def test_without_targets_given_those_of_the_run_hold_class_by_class(run, model, capsys):
    """The demo has an impatient class and a patient one: each request is held to its own."""
    known = [str(run), "--model", str(model), "--assume", "policy=vllm"]
    code = command(["advise", *known, "--vary", "max_running_requests"])
    told = capsys.readouterr().out
    assert code in {0, 1, 3}
    for part in ("interactive: TTFT 2 s", "batch: e2e", "served in time"):
        assert part in told
    assert command(["capacity", *known, "--attainment", "0.8"]) == 0
    assert "in time at that rate: batch" in capsys.readouterr().out
    assert command(["capacity", *known, "--slo", "batch: e2e_latency=1000", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["points"][0]["by_class"]) == {"batch"}
    assert document["requests"] < 200


@pytest.mark.parametrize("name", ["fit", "whatif", "score", "advise", "capacity"])
@pytest.mark.parametrize(
    ("assumed", "parts"),
    [
        ("max_num_seqs=8", ("--assume max_num_seqs", "it is called max_running_requests here")),
        ("kv_cache_blocks=-1", ("--assume kv_cache_blocks=-1", "expected a whole number")),
        ("policy=fifo", ("--assume policy=fifo", "expected one of sarathi")),
    ],
)
def test_what_cannot_be_assumed_is_refused_in_one_line(run, model, name, assumed, parts, capsys):
    code = command([name, str(run), *([str(model)] if name == "score" else []), "--assume", assumed])
    told = capsys.readouterr()
    assert refused(Run(code, told.out, told.err), *parts)


@pytest.mark.parametrize("blocks", [2, 10])
def test_a_cache_in_which_many_requests_do_not_fit_is_refused_with_what_they_need(run, model, blocks):
    done = batchscope("whatif", run, "--model", model, "--set", f"kv_cache_blocks={blocks}")
    assert refused(done, f"--set kv_cache_blocks={blocks}: expected at least ", "do not fit")
    least = re.search(r"at least ([\d,]+)", done.errors)[1].replace(",", "")
    assert batchscope("whatif", run, "--model", model, "--set", f"kv_cache_blocks={least}").code == 0


def test_a_run_without_a_request_cannot_be_replayed(tmp_path, capsys):
    with SchedulerMetricsCollector() as collector:
        collector.record_to(tmp_path)
    code = command(["replay", str(tmp_path)])
    told = capsys.readouterr()
    assert refused(Run(code, told.out, told.err), "there is nothing to replay")


def test_a_time_in_microseconds_has_no_exponent():
    assert [in_microseconds(value) for value in (0.0182293, 1.2449e-4, 1.315e-7)] == ["18,229", "124.5", "0.1315"]
