"""What others recorded becomes a run that says the same: recognised by content, what is missing named."""

import errno
import gzip
import json
import os
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest

from batchscope.cli import run as run_command
from batchscope.errors import ConfigurationError, WorkloadError
from batchscope.importing import Given, import_run
from batchscope.importing.content import content_of
from batchscope.importing.imported import _source, _write
from batchscope.ledger import open_run
from batchscope.ledger.prefixes import read_prefixes
from batchscope.ledger.staging import Stream
from batchscope.ledger.writer import RunWriter

TRACES = Path(__file__).parents[2] / "../shared/traces"
needs_traces = pytest.mark.skipif(not TRACES.is_dir(), reason=f"the traces are not here: no {TRACES}")


VIDUR = "request_id,arrived_at,scheduled_at,prefill_completed_at,completed_at,num_prefill_tokens,num_decode_tokens\n"


def floats(table, name):
    return np.array([nan if value is None else value for value in table[name].to_pylist()], float)


def written(path, text, packed=False):
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


# vLLM's own instants


@needs_traces
@pytest.mark.parametrize(
    ("folder", "places", "blocks"), [("RTX4090_Llama-3.1-8B", 256, 2588), ("RTXPRO6000_Llama-3.1-8B", 128, None)]
)
def test_a_real_vllm_run_has_the_latencies_that_were_published(tmp_path, folder, places, blocks):
    requests = TRACES / "vllm_real" / folder / "requests.jsonl.gz"
    done = import_run([requests], tmp_path / "run")
    run = open_run(tmp_path / "run")
    table = run.requests()
    published = {line[:16].strip(): float(line[16:].split()[0]) for line in summary(requests) if line.strip()}
    ttft, e2e = floats(table, "time_to_first_token") * 1e3, floats(table, "total_time") * 1e3
    for values, name in ((ttft, "TTFT"), (e2e, "Latency"), (floats(table, "time_per_output_token") * 1e3, "TPOT")):
        assert values.mean() == pytest.approx(published[f"{name} Mean"], abs=0.06)
        assert np.percentile(values, 99) == pytest.approx(published[f"{name} P99"], abs=0.06)
    limits = run.header.limits
    assert (limits.max_running_requests, limits.max_scheduled_tokens) == (places, 2048)
    assert (limits.kv_cache_blocks, limits.kv_block_size) == (blocks, 16)
    assert any("kv_cache_blocks" in text for text in done.missing) is (blocks is None)
    assert run.header.engine.kind == "vllm"
    assert run.header.anchor_time.year == 2026
    assert done.rejected == {}


def summary(requests):
    return [line for line in requests.with_name("summary.txt").read_text().splitlines()[2:] if line.strip()]


@needs_traces
def test_prefixes_are_kept_beside_the_requests_that_they_are_of(tmp_path):
    requests = TRACES / "vllm_real/RTX4090_Llama-3.1-8B/requests.jsonl.gz"
    import_run([requests], tmp_path / "run")
    run, prefixes = open_run(tmp_path / "run"), read_prefixes(tmp_path / "run")
    ids = dict(zip(run.requests()["request"].to_pylist(), run.requests()["request_id"].to_pylist(), strict=True))
    found = {ids[number]: list(blocks) for number, blocks in prefixes.blocks.items()}
    lines = map(json.loads, gzip.decompress(requests.read_bytes()).splitlines())
    assert found == {line["request_id"]: line["prefix_block_ids"] for line in lines if line["prefix_block_ids"]}
    assert prefixes.block_tokens == 16


def test_a_run_without_prefixes_has_none(tmp_path):
    assert read_prefixes(tmp_path).blocks == {}


REQUEST = {
    "request_id": "a",
    "input_toks": 5,
    "output_toks": 3,
    "queued_ts": 1.0,
    "first_token_ts": 2.0,
    "last_token_ts": 4.0,
}


def lines(*objects):
    return "".join(json.dumps(each) + "\n" for each in objects)


def test_settings_may_be_given_and_the_users_hold_over_them(tmp_path):
    requests = written(tmp_path / "anything", lines(REQUEST, {**REQUEST, "request_id": "b"}))
    settings = written(tmp_path / "else", json.dumps({"vllm_version": "9", "engine_kwargs": {"max_num_seqs": 7}}))
    import_run([settings, requests], tmp_path / "run", Given(kv_cache_blocks=11, policy="sglang"))
    run = open_run(tmp_path / "run")
    limits = run.header.limits
    assert (limits.max_running_requests, limits.kv_cache_blocks, limits.kv_block_size) == (7, 11, 16)
    assert run.header.engine.version == "9"
    assert run.document.configuration["policy"] == "sglang"
    assert "max_scheduled_tokens (give --max-scheduled-tokens)" in run.document.configuration["imported"]["missing"]
    assert floats(run.requests(), "queue_time").tolist() == pytest.approx([nan, nan], nan_ok=True)


# vllm bench serve


BENCHMARK = {
    "date": "20261128-101500", "backend": "vllm", "model_id": "m", "num_prompts": 3, "duration": 4.0,
    "input_lens": [10, 20, 30], "output_lens": [3, 0, 1], "ttfts": [0.5, 0.0, 0.25],
    "itls": [[0.1, 0.3], [], []], "errors": ["", "refused", ""], "start_times": [100.0, 101.0, 102.0],
    "generated_texts": ["x", "", "y"],
}  # fmt: skip


def benchmark(tmp_path, **changes):
    document = {key: value for key, value in {**BENCHMARK, **changes}.items() if value is not None}
    import_run([written(tmp_path / "result.json", json.dumps(document, indent=1))], tmp_path / "run")
    return open_run(tmp_path / "run")


def test_a_benchmark_is_what_its_client_saw(tmp_path):
    run = benchmark(tmp_path)
    table = run.requests().sort_by("prompt_tokens")
    assert table["reason"].to_pylist() == ["other", "error", "other"]
    assert floats(table, "arrived_at").tolist() == [100.0, 101.0, 102.0]
    assert floats(table, "time_to_first_token").tolist() == pytest.approx([0.5, nan, 0.25], nan_ok=True)
    assert floats(table, "total_time").tolist()[0] == pytest.approx(0.9)
    assert floats(table, "time_per_output_token").tolist()[0] == pytest.approx(0.2)
    assert floats(table, "max_emission_gap").tolist()[0] == pytest.approx(0.3)
    assert isnan(floats(table, "queue_time")[0])
    assert run.header.labels == {"model_name": "m"}
    assert "x" not in (tmp_path / "run/run.json").read_text().split('"')


def test_no_request_of_a_benchmark_is_lost_to_rounding(tmp_path):
    """The end is a sum of the same gaps in another order: it must not come out before the last token."""
    random = np.random.default_rng(1)
    counts = [*random.integers(1, 300, 200).tolist(), *[1] * 50]
    gaps = [random.uniform(0.02, 0.04, count - 1).tolist() for count in counts]
    changes = {"input_lens": [10] * 250, "output_lens": counts, "itls": gaps, "errors": [""] * 250}
    times = {"ttfts": random.uniform(0.1, 2.0, 250).tolist(), "start_times": random.uniform(1e3, 2e3, 250).tolist()}
    run = benchmark(tmp_path, **changes, **times)
    ends = [first + sum(each) for first, each in zip(times["ttfts"], gaps, strict=True)]
    assert run.requests().num_rows == 250
    assert sorted(floats(run.requests(), "total_time")) == pytest.approx(sorted(ends), abs=1e-9)


def test_an_older_benchmark_has_durations_only(tmp_path):
    run = benchmark(tmp_path, start_times=None)
    table = run.requests().sort_by("prompt_tokens")
    assert np.isnan(floats(table, "arrived_at")).all()
    assert floats(table, "time_to_first_token").tolist() == pytest.approx([0.5, nan, 0.25], nan_ok=True)
    assert floats(table, "total_time")[0] == pytest.approx(0.9)
    assert "durations only" in run.document.configuration["imported"]["missing"][0]


def test_a_packed_benchmark_of_one_line_or_many_is_the_same(tmp_path):
    for name, indent, packed in (("line", None, True), ("lines", 1, True), ("plain", 1, False)):
        import_run(
            [written(tmp_path / name, json.dumps(BENCHMARK, indent=indent), packed=packed)], tmp_path / f"run {name}"
        )
        assert open_run(tmp_path / f"run {name}").requests().num_rows == 3
    torn = tmp_path / "torn"
    torn.write_bytes((tmp_path / "lines").read_bytes()[:-20])
    with pytest.raises(WorkloadError, match="torn"):
        import_run([torn], tmp_path / "run torn")


@pytest.mark.parametrize(
    "changes", [{"ttfts": [0.5]}, {"itls": None}, {"input_lens": []}, {"output_lens": ["many", 1, 2]}]
)
def test_a_benchmark_whose_lists_do_not_fit_is_refused(tmp_path, changes):
    with pytest.raises(WorkloadError, match=r"result\.json"):
        benchmark(tmp_path, **changes)


def test_a_benchmark_without_details_says_how_to_get_them(tmp_path):
    result = written(tmp_path / "r.json", json.dumps({"completed": 3, "request_throughput": 1.0, "mean_ttft_ms": 3}))
    with pytest.raises(WorkloadError, match="--save-detailed"):
        import_run([result], tmp_path / "run")


# dynamo.fpm.trace.v1


def forward_pass(
    number, at_ms, *, prefill=1, decode=4, rank=0, worker="w", mode="full", bare=False, schema="dynamo.fpm.trace.v1"
):
    scheduled = {
        "num_prefill_requests": prefill,
        "sum_prefill_tokens": 100 * prefill,
        "num_decode_requests": decode,
        "sum_decode_kv_tokens": 50,
    }
    fpm = {
        "version": 1, "worker_id": worker, "dp_rank": rank, "counter_id": number, "wall_time": 0.025,
        "scheduled_requests": scheduled, "queued_requests": {"num_prefill_requests": 2, "num_decode_requests": 1},
    }  # fmt: skip
    event = {
        "schema": schema,
        "source": {"namespace": "n"},
        "capture_mode": mode,
        "observed_at_unix_ms": at_ms,
        "fpm": fpm,
    }
    return event if bare else {"timestamp": at_ms - 1000, "event": event}


START = 1_782_777_601_250


def test_forward_passes_become_iterations_and_what_lies_between_them_is_a_gap(tmp_path):
    first = written(tmp_path / "a.gz", lines(forward_pass(7, START + 1000), forward_pass(5, START)), packed=True)
    second = written(
        tmp_path / "b",
        lines(forward_pass(12, START + 2000, rank=1), forward_pass(8, START + 2500), forward_pass(8, START + 2500)),
    )
    idle = written(tmp_path / "c", lines(forward_pass(9, START + 3000, prefill=0, decode=0)))
    done = import_run([second, first, idle], tmp_path / "run")
    run = open_run(tmp_path / "run")
    table = run.iterations()
    assert table["iteration_number"].to_pylist() == [5, 7, 12, 8]
    assert table["rank"].to_pylist() == [0, 0, 1, 0]
    assert table["request_count"].to_pylist() == [5] * 4
    assert table["waiting_requests"].to_pylist() == [3] * 4
    assert table["scheduled_tokens"].to_pylist() == [104] * 4
    assert floats(table, "finished_at").tolist() == pytest.approx([0.0, 1.0, 2.0, 2.5])
    assert floats(table, "processing_time").tolist() == pytest.approx([0.025] * 4)
    gaps = run.events().to_pylist()
    assert [(gap["kind"], gap["name"], gap["count"]) for gap in gaps] == [("gap", "iterations", 1)]
    assert done.notes == [
        "iterations missing between those of the trace: 1",
        "heartbeats of an idle engine, which are no iterations: 1",
    ]
    assert run.header.anchor_time.timestamp() == pytest.approx(START / 1000)
    assert run.requests().num_rows == 0


def test_lines_without_their_envelope_are_read_too(tmp_path):
    trace = written(tmp_path / "t", lines(forward_pass(1, START, bare=True), forward_pass(2, START + 5, bare=True)))
    import_run([trace], tmp_path / "run")
    assert open_run(tmp_path / "run").iterations().num_rows == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lines(forward_pass(1, START, schema="dynamo.fpm.trace.v2")), "schema = 'dynamo.fpm.trace.v2'"),
        (lines(forward_pass(1, START, prefill=0, decode=0)), "no iteration"),
        (lines(forward_pass(1, START)) + '{"event": 3}\n', "line 2"),
    ],
)
def test_a_trace_that_is_none_is_refused_in_one_line(tmp_path, text, said):
    with pytest.raises(WorkloadError, match=said):
        import_run([written(tmp_path / "t", text)], tmp_path / "run")
    assert not (tmp_path / "run").exists()


# vidur


@needs_traces
def test_vidurs_event_log_is_exact(tmp_path):
    folder = TRACES / "vidur_conv_sarathi"
    done = import_run(
        [folder / "batches.csv.gz", folder / "requests.csv", folder / "batch_requests.csv.gz"], tmp_path / "run"
    )
    run = open_run(tmp_path / "run")
    expected = json.loads((TRACES / "expected.json").read_text())["vidur_conv_sarathi"]
    assert done.rejected == {}
    assert run.requests().num_rows == 1000
    assert run.iterations().num_rows == expected["iterations"]["count"]
    for column, figure in {"queue_time": "queue", "time_to_first_token": "ttft", "total_time": "e2e"}.items():
        values, wanted = floats(run.requests(), column), expected["requests"][figure]
        assert values.mean() == pytest.approx(wanted["mean"], rel=1e-9)
        assert np.percentile(values, 99) == pytest.approx(wanted["p99_linear"], rel=1e-9)
    assert run.tokens().num_rows == expected["requests"]["output_tokens"]["sum"]


@needs_traces
def test_vidurs_own_table_has_the_same_latencies(tmp_path):
    native = TRACES / "vidur_conv_sarathi/native"
    import_run([native / "request_metrics.csv.gz"], tmp_path / "native")
    import_run([TRACES / "vidur_conv_sarathi/requests.csv"], tmp_path / "log")
    tables = [open_run(tmp_path / name).requests().sort_by("request_id") for name in ("native", "log")]
    for column in ("arrived_at", "queue_time", "time_to_first_token", "total_time", "time_per_output_token"):
        ours, theirs = (floats(table, column) for table in tables)
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


# What is none of these


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["hello\n"], "expected one of: a dynamo"),
        ([""], "empty"),
        (['{"a": 1}'], "has 'a'"),
        (["[1, 2]\n"], "expected one of"),
        (["{}"], "is an empty object: expected one of"),
        (['{"a": [1, NaN, 2]}'], r"not JSON .*\(byte 10\): 'NaN, 2\]\}'\)"),
        (["a,b\n1,2\n"], "has 'a', 'b'"),
        ([lines(REQUEST), lines(forward_pass(1, START))], "different runs"),
        ([lines(REQUEST), lines(REQUEST)], "twice"),
        ([lines(REQUEST, REQUEST)], "request_id a twice"),
        ([VIDUR + "0,0,1,2,3,4,5\n0,0,1,2,3,4,5\n"], "request_id '0' twice"),
        ([VIDUR], r"file0: nothing to record in it \(no row\); expected what ended or ran"),
        ([VIDUR + "0,0,1,2,,4,5\n"], r"nothing to record in it \(requests that did not end: 1\)"),
        ([lines({**REQUEST, "first_token_ts": 0.5})], r"nothing to record in it \(records that cannot be true: 1 "),
        (['{"vllm_version": "1", "engine_kwargs": {}}'], "no requests and no iterations"),
        ([lines({**REQUEST, "queued_ts": None})], "line 1: no request"),
        (["batch_id,request_id,num_tokens,prefill_complete\n0,0,1,1\n"], "no requests and no iterations"),
    ],
)
def test_other_files_are_refused_in_one_line_and_nothing_is_made(tmp_path, texts, said):
    files = [written(tmp_path / f"file{number}", text) for number, text in enumerate(texts)]
    with pytest.raises(WorkloadError, match=said) as caught:
        import_run(files, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_not_written_to(tmp_path):
    (tmp_path / "run").mkdir()
    written(tmp_path / "run/notes", "mine")
    with pytest.raises(ConfigurationError, match="not there yet"):
        import_run([written(tmp_path / "r", lines(REQUEST))], tmp_path / "run")


def test_a_request_of_vidur_that_never_ended_is_no_completed_one_and_is_named(tmp_path):
    log = written(tmp_path / "log.csv", VIDUR + "0,0,1,2,3,4,5\n1,1,2,3,,4,5\n")
    done = import_run([log], tmp_path / "run")
    assert done.rows["requests"] == 1
    assert done.notes == ["requests that did not end: 1"]
    done = import_run(
        [log, *batches_of(tmp_path, "0,1,2,1,4\n1,2,3,2,4\n", "1,1,4,1\n0,0,4,1\n1,0,1,1\n")], tmp_path / "all"
    )
    assert (done.rows["requests"], done.notes) == (1, ["requests that did not end: 1"])
    assert open_run(tmp_path / "all").document.in_flight == 1


def test_a_value_that_is_no_number_names_its_file(tmp_path):
    log = written(tmp_path / "log.csv", VIDUR + "0,soon,1,2,3,4,5\n")
    with pytest.raises(WorkloadError, match=r"log\.csv: not as vidur"):
        import_run([log], tmp_path / "run")


def batches_of(tmp_path, batches, members):
    return [
        written(tmp_path / "batches.csv", "batch_id,scheduled_at,completed_at,size,num_prefill_tokens\n" + batches),
        written(tmp_path / "members.csv", "batch_id,request_id,num_tokens,prefill_complete\n" + members),
    ]


def test_who_was_in_a_batch_of_vidur_may_be_listed_in_any_order(tmp_path):
    log = written(tmp_path / "log.csv", VIDUR + "0,0,1,2,4,4,2\n1,0,1,2,4,4,2\n")
    members = ["0,0,4,1\n", "0,1,4,1\n", "1,0,1,1\n", "1,1,1,1\n"]
    for place, order in enumerate(([0, 1, 2, 3], [3, 0, 2, 1])):
        batches = batches_of(tmp_path, "0,1,2,2,8\n1,2,4,2,0\n", "".join(members[each] for each in order))
        done = import_run([log, *batches], tmp_path / f"run{place}")
        assert (done.rows["requests"], done.rejected) == (2, {})
        assert open_run(tmp_path / f"run{place}").iterations()["request_count"].to_pylist() == [2, 2]


@pytest.mark.parametrize(
    ("batches", "members", "said"),
    [
        ("0,1,2,1,4\n1,2,3,1,0\n", "0,0,4,1\n", r"members\.csv: nobody is in batch '1', which is in batches\.csv"),
        ("0,1,3,1,4\n", "0,0,4,1\n7,0,4,1\n", r"batches\.csv: no batch '7', of which members\.csv has requests"),
        ("0,1,3,1,4\n", "0,9,4,1\n", r"members\.csv: request '9' is in batch '0', and not there then by log\.csv"),
        (
            "0,1,3,1,4\n1,3,4,1,4\n",
            "0,0,4,1\n1,0,1,1\n",
            r"request '0' is in batch '1', and not there then by log\.csv",
        ),
    ],
)
def test_files_of_vidur_that_do_not_fit_together_are_refused_by_what_does_not(tmp_path, batches, members, said):
    log = written(tmp_path / "log.csv", VIDUR + "0,0,1,3,3,4,1\n")
    with pytest.raises(WorkloadError, match=said) as caught:
        import_run([log, *batches_of(tmp_path, batches, members)], tmp_path / "run")
    assert "not as vidur writes it" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_impossible_instants_are_counted_and_no_figure(tmp_path):
    requests = written(tmp_path / "r", lines(REQUEST, {**REQUEST, "request_id": "b", "first_token_ts": 0.5}))
    done = import_run([requests], tmp_path / "run")
    assert sum(done.rejected.values()) == 1
    assert done.rows["requests"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({**BENCHMARK, "ttfts": [0.5, 0.0, 1e300]}), "file, request 2: 1e[+]300 s"),
        (json.dumps({**BENCHMARK, "ttfts": [1e300, 0.0, 1.0], "start_times": []}), "file, request 0: 1e[+]300 s"),
        (json.dumps({**BENCHMARK, "start_times": [-1e13, 1.0, 1.0]}), "file, request 0: -1e[+]13 s"),
        (lines(REQUEST, {**REQUEST, "request_id": "b", "last_token_ts": 1e300}), "file, line 2: 1e[+]300 s"),
        (lines({**REQUEST, "arrival_time": 1e300}), "file, line 1: 1e[+]300 s"),
        (lines(forward_pass(1, 10**16)), "file, line 1: 1e[+]13 s"),
        (VIDUR + "0,0,1,2,3,4,5\n1,0,1,2,1e300,4,5\n", "file, request 1: 1e[+]300 s"),
        (VIDUR + "0,0,1,2,inf,4,5\n", "file, request 0: inf s"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_an_instant_beyond_reach_is_refused_with_its_file_and_its_request_and_nothing_is_left(
    tmp_path, text, said, there
):
    if there:
        (tmp_path / "run").mkdir()
    with pytest.raises(WorkloadError, match=said + r": expected instants and durations within \+-1e\+12 s"):
        import_run([written(tmp_path / "file", text)], tmp_path / "run")
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["file", "run"] if there else ["file"])


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({**BENCHMARK, "ttfts": [0.5, 0.0, 9e11]}),
        json.dumps({**BENCHMARK, "start_times": [-9e11, 0.0, 0.0]}),
        lines({**REQUEST, "arrival_time": 9e11}),
        lines(forward_pass(1, 9 * 10**14)),
        VIDUR + "0,0,1,2,9e11,4,5\n",
    ],
)
def test_of_instants_beyond_the_year_9999_a_run_is_made_that_every_command_answers_in_its_own_words(tmp_path, text):
    import_run([written(tmp_path / "file", text)], tmp_path / "run")
    out = tmp_path / "out"
    for command in (
        ["report"], ["report", "--json"], ["report", "--html", f"{out}"], ["report", "--from", "2", "--to", "1e11"],
        ["explain"], ["explain", "--json"], ["trace", "--out", f"{out}"], ["replay"], ["fit"], ["runs"],
    ):  # fmt: skip
        assert run_command([command[0], str(tmp_path / "run"), *command[1:]]) in {0, 2, 3}, command


@pytest.mark.parametrize("policy", ["zzz", ""])
def test_a_policy_that_nobody_knows_is_refused_before_anything_is_made(tmp_path, policy):
    with pytest.raises(ConfigurationError, match="one of sarathi, vllm"):
        import_run([written(tmp_path / "file", lines(REQUEST))], tmp_path / "run", Given(policy=policy))
    assert not (tmp_path / "run").exists()


def test_a_benchmark_of_no_request_says_so(tmp_path):
    nothing = {name: [] for name in ("input_lens", "output_lens", "ttfts", "itls", "errors", "start_times")}
    with pytest.raises(WorkloadError, match="input_lens is empty: expected a request at least"):
        benchmark(tmp_path, **nothing)


def test_an_import_that_is_interrupted_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("batchscope.ledger.writer.RunWriter.close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_run([written(tmp_path / "file", lines(REQUEST))], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_imports_to_one_folder_at_once_are_one_and_it_is_left_whole(tmp_path, monkeypatch):
    file, other = written(tmp_path / "file", lines(REQUEST)), tmp_path / "run"
    other.mkdir()
    real = RunWriter.close

    def close(writer, lost):  # the first one is about to end
        monkeypatch.setattr(RunWriter, "close", real)
        with pytest.raises(ConfigurationError, match="a folder that nobody else imports to"):
            _write(_source({file: content_of(file)}), other, Given(), ["file"])
        real(writer, lost)

    monkeypatch.setattr(RunWriter, "close", close)
    assert import_run([file], other).rows == {"requests": 1}
    assert open_run(other).problems == []


@pytest.mark.parametrize("fails", ["append", "convert"])
def test_an_import_that_finds_no_room_says_so_and_leaves_nothing(tmp_path, monkeypatch, capsys, fails):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = written(tmp_path / "file", lines(REQUEST))
    monkeypatch.setattr(
        {"append": Stream, "convert": RunWriter}[fails], {"append": "append", "convert": "_save"}[fails], full
    )
    before = len(os.listdir("/proc/self/fd"))
    assert run_command(["import", str(file), "--to", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --to {tmp_path / 'run'}: expected a folder that ")
    assert "No space left on device" in said
    assert not (tmp_path / "run").exists()
    assert len(os.listdir("/proc/self/fd")) == before
