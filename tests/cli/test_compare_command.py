"""``batchscope compare``, ``import`` and ``replay RUN`` as users type them: exit codes, lines of errors, documents."""

import json
import shutil
from typing import NamedTuple

import pytest

from batchscope import CompletionReason, RequestResult, SchedulerMetricsCollector
from batchscope.cli import run as command
from batchscope.importing import import_run


class Done(NamedTuple):
    code: int
    output: str
    errors: str


@pytest.fixture
def batchscope(capfdbinary):
    """The command in this process: a start of it takes longer than what it does here."""

    def called(*arguments):
        capfdbinary.readouterr()
        code = command(list(map(str, arguments)))
        return Done(code, *(text.decode() for text in capfdbinary.readouterr()))

    return called


def requests(factor=1.0, count=120, first="r"):
    """As vLLM's log has them: one a second, each served at once."""
    for number in range(count):
        arrived = 1000.0 + number + 0.3 * (number * 0.618 % 1)
        yield {
            "request_id": f"{first}{number}", "input_toks": 50 + number * 13 % 57, "output_toks": 10, "queued_ts": arrived,
            "scheduled_ts": arrived + 0.01 * factor, "first_token_ts": arrived + (0.1 + 0.01 * (number % 5)) * factor,
            "last_token_ts": arrived + (0.5 + 0.02 * (number % 3)) * factor,
        }  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with runs ``a``, ``same``, ``slow``, ``other`` and ``one``."""
    root = tmp_path_factory.mktemp("runs")
    made = {"a": {}, "same": {}, "slow": {"factor": 1.5}, "other": {"first": "x", "factor": 0.5}, "one": {"count": 1}}
    for name, changes in made.items():
        log = root / f"{name}.jsonl"
        log.write_text("".join(json.dumps(each) + "\n" for each in requests(**changes)))
        import_run([log], root / name)
    return root


def test_a_slower_run_is_worse_and_an_equal_one_is_not(batchscope, runs):
    slower, equal = (batchscope("compare", runs / "a", "--", runs / name) for name in ("slow", "same"))
    assert slower.code == equal.code == 0
    assert any(
        "mean_ttft" in line and "+50.0" in line and line.endswith("worse") for line in slower.output.splitlines()
    )
    assert "0 figures differ" in equal.output
    assert all(len(line) <= 100 for line in slower.output.splitlines())


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("p99_ttft > +60%", 0),
        ("p99_ttft > +20%", 1),
        ("mean_tpot < -5%", 0),
        ("attainment < -1%", 3),
        ("mean_e2e > 100ms", 1),
    ],
)
def test_the_exit_code_answers_the_condition(batchscope, runs, condition, code):
    run = batchscope("compare", runs / "a", "--", runs / "slow", "--fail-if", condition)
    assert run.code == code
    assert condition in run.output


def test_one_failed_condition_fails_all(batchscope, runs):
    run = batchscope(
        "compare", "--fail-if", "mean_tpot<-50%", "--fail-if", "p50_e2e > 1%", runs / "a", "--", runs / "slow"
    )
    assert run.code == 1


def test_json_is_the_whole_comparison(batchscope, runs):
    run = batchscope("compare", runs / "a", "--", runs / "slow", "--json", "--fail-if", "mean_ttft > 1%")
    document = json.loads(run.output)
    assert document["schema"] == "batchscope.comparison/1"
    assert (document["a"], document["b"], document["paired"], document["pairs"]) == (["a"], ["slow"], "id", 120)
    ttft = next(each for each in document["figures"] if each["figure"] == "mean_ttft")
    assert ttft["relative"] == pytest.approx(0.5)
    assert ttft["low"] <= ttft["relative"] <= ttft["high"]
    assert document["conditions"] == [
        {"condition": "mean_ttft > 1%", "outcome": "fail", "why": document["conditions"][0]["why"]}
    ]
    assert "NaN" not in run.output


def test_an_imported_run_is_not_a_simulated_one_and_explained_by_its_own_instants(batchscope, runs):
    assert "simulated" not in batchscope("runs", runs / "a").output
    run = batchscope("explain", runs / "a", "--request", "r7", "--json")
    assert run.code == 0, run.errors
    document = json.loads(run.output)
    assert document["not_recorded"] == ["spans", "iterations"]
    assert {part["part"] for part in document["request"]["parts"]} == {"queued", "prefill_phase", "decode_phase"}


def test_two_runs_need_no_border(batchscope, runs):
    assert (
        batchscope("compare", runs / "a", runs / "slow").output
        == batchscope("compare", runs / "a", "--", runs / "slow").output
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "--", "a"], "does not differ from itself"),
        (["a", "same", "slow"], "runs on both sides of one --"),
        (["a", "--"], "runs on both sides of one --"),
        (["--", "a"], "runs on both sides of one --"),
        (["a", "--", "nowhere"], "nowhere"),
        (["a", "--", "slow", "--fail-if", "p99 > 5%"], "--fail-if p99 > 5%: expected a figure such as"),
        (["a", "--", "slow", "--margin", "7"], "--margin 7.0: expected a share"),
        (["a", "--", "slow", "--seed", "-1"], "--seed -1: expected a whole number >= 0"),
    ],
)
def test_wrong_use_is_one_line(batchscope, runs, arguments, said):
    run = batchscope(
        "compare", *(runs / word if (runs / word).is_dir() or word == "nowhere" else word for word in arguments)
    )
    assert run.code == 2
    assert said in run.errors
    assert run.errors.count("\n") == 1


def test_other_workloads_and_single_requests_are_named(batchscope, runs):
    other = batchscope("compare", runs / "a", "--", runs / "other")
    assert other.code == 0
    assert "lengths and arrivals agree: paired in order of arrival" in other.output.replace("\n", " ")
    one = batchscope("compare", runs / "a", "--", runs / "one")
    assert "1 request says nothing" in one.output
    assert "worse" not in one.output.split("verdict")[1]


def test_import_says_what_came_and_what_is_missing(batchscope, runs, tmp_path):
    run = batchscope("import", runs / "a.jsonl", "--to", tmp_path / "new", "--kv-cache-blocks", 99)
    assert run.code == 0
    assert "120 requests, from requests of vLLM" in run.output
    assert "note: not in these files: iterations" in run.errors
    assert "max_running_requests (give --max-running-requests)" in run.errors
    assert "kv_cache_blocks" not in run.errors


@pytest.mark.parametrize(("text", "said"), [("hello", "expected one of"), ("", "empty"), ('{"a": 1}\n', "has 'a'")])
def test_a_file_that_is_none_is_one_line(batchscope, tmp_path, text, said):
    (tmp_path / "file").write_text(text)
    run = batchscope("import", tmp_path / "file", "--to", tmp_path / "new")
    assert run.code == 2
    assert said in run.errors
    assert run.errors.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_not_imported_to(batchscope, runs):
    run = batchscope("import", runs / "a.jsonl", "--to", runs / "slow")
    assert run.code == 2
    assert "--to" in run.errors
    assert "not there yet" in run.errors


def test_a_recorded_run_is_replayed_under_its_own_limits(batchscope, runs, tmp_path):
    batchscope(
        "import", runs / "a.jsonl", "--to", tmp_path / "new", "--kv-cache-blocks", 99, "--max-running-requests", 3
    )
    run = batchscope("replay", tmp_path / "new", "--json")
    assert run.code == 0
    snapshot = json.loads(run.output)
    assert snapshot["totals"]["requests_received"] == 120
    assert snapshot["totals"]["generation_tokens"] == 1200
    twice = json.loads(batchscope("replay", tmp_path / "new", "--json", "--rate-scale", 2, "--limit", 50).output)
    assert twice["totals"]["requests_received"] == 50


def test_a_run_of_durations_without_phases_cannot_be_replayed_and_says_what_it_lacks(batchscope, tmp_path):
    with SchedulerMetricsCollector() as collector:
        collector.record_to(tmp_path)
        collector.record_request_completion(RequestResult("r", 9, CompletionReason.EOS_TOKEN_REACHED, 2.0))
    run = batchscope("replay", tmp_path)
    assert run.code == 2
    assert "no request in it says when it came and got its tokens" in run.errors


def test_a_folder_that_is_no_run_is_one_line(batchscope, tmp_path):
    run = batchscope("replay", tmp_path)
    assert run.code == 2
    assert "no run" in run.errors
    assert run.errors.count("\n") == 1


def test_a_run_that_was_cut_off_is_named(batchscope, runs, tmp_path):
    shutil.copytree(runs / "same", tmp_path / "cut")
    document = tmp_path / "cut/run.json"
    document.write_text(document.read_text().replace('"finished"', '"recording"'))
    run = batchscope("compare", runs / "a", "--", tmp_path / "cut")
    assert run.code == 0
    assert "cut is cut off: its process was killed" in run.output


def test_all_runs_of_a_folder_are_taken(batchscope, runs, tmp_path):
    for number in range(3):
        import_run([runs / "slow.jsonl"], tmp_path / f"slow{number}")
    comparison = json.loads(batchscope("compare", runs / "a", "--", tmp_path, "--json").output)
    assert comparison["b"] == ["slow0", "slow1", "slow2"]


def test_a_run_named_twice_or_copied_is_no_repeat(batchscope, runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "copy")
    for other in (runs / "a", tmp_path / "copy"):
        run = batchscope("compare", runs / "a", other, "--", runs / "slow")
        assert (run.code, run.output) == (2, "")
        assert "each run once" in run.errors
    run = batchscope("compare", runs / "a", "--", tmp_path / "copy")
    assert run.code == 2
    assert "does not differ from itself" in run.errors


def test_a_part_that_is_none_is_refused(batchscope, runs):
    run = batchscope("compare", runs / "a", "--", runs / "slow", "--part", "middle")
    assert run.code == 2
    assert "--part 'middle': expected one of auto, all, steady" in run.errors
