"""Whatever is wrong with input or options: one clear line on stderr, exit code 2, no report."""

import pytest
from command_line import HEADER, ROWS, batchscope, refused


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("the file is empty",)),
        (HEADER, ("there is no request in it",)),
        ("a,b,c\n1,2,3\n", ("line 1", "unknown trace format", "azure")),
        (HEADER + ROWS[0] + "broken\n", ("line 3", "1 values, expected 3")),
        (HEADER + "2023-11-16 18:15:46,-5,44\n", ("line 2", "ContextTokens = '-5'", "expected a whole number")),
        (HEADER + ROWS[1] + ROWS[0], ("line 3", "time goes backwards")),
        ('{"timestamp": 0, "input_length": 5}\n', ("line 1", "unknown trace format")),
    ],
)
def test_a_broken_trace_names_file_line_and_what_was_expected(tmp_path, text, parts):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    assert refused(batchscope("replay", path), str(path), *parts)
    assert refused(batchscope("replay", path, "--json"), str(path), *parts)


def test_a_file_that_is_missing_or_is_none(tmp_path):
    assert refused(batchscope("replay", tmp_path / "none.csv"), "no such file")
    assert refused(batchscope("replay", tmp_path), "no run: expected a folder with run.json")


def test_an_error_never_sends_control_characters_to_the_terminal(tmp_path):
    assert refused(batchscope("replay", tmp_path / "a\nb\x1b[31m.csv"), r"a\nb\x1b[31m.csv")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--limit", "0"), ("--limit 0", "expected a whole number 1..")),
        (("--limit", "many"), ("--limit", "integer")),
        (("--rate-scale", "-1"), ("--rate-scale -1", "> 0")),
        (("--rate-scale", "nan"), ("--rate-scale nan", "> 0")),
        (("--speed", "0"), ("--speed 0", "> 0")),
        (("--slo-ttft", "0"), ("--slo-ttft 0", "seconds > 0")),
        (("--slo-tpot", "inf"), ("--slo-tpot inf", "seconds > 0")),
        (("--slo-e2e", "-3"), ("--slo-e2e -3", "seconds > 0")),
        (("--max-running-requests", "0"), ("--max-running-requests 0",)),
        (("--kv-cache-blocks", "0"), ("--kv-cache-blocks 0",)),
        (
            ("--max-scheduled-tokens", "10", "--max-running-requests", "20"),
            ("--max-scheduled-tokens 10: expected a whole number 20..", "--max-running-requests"),
        ),
        (("--seed", "x"), ("--seed",)),
        (("--no-such-option",), ("--no-such-option",)),
        (("another-argument",), ("another-argument",)),
        (("--svg", "/no/such/folder/report.svg"), ("--svg", "no directory")),
        (("--svg", "/"), ("--svg", "directory")),
        (("--svg", "report.png"), ("--svg report.png: SVG is what is written", "ends in .svg")),
    ],
)
def test_a_wrong_option_is_named_as_it_was_typed(trace, arguments, parts):
    assert refused(batchscope("replay", trace, *arguments), *parts)


def test_the_picture_never_overwrites_the_trace(trace):
    before = trace.read_bytes()
    assert refused(batchscope("replay", trace, "--svg", trace), "--svg", "the trace itself")
    assert trace.read_bytes() == before


def test_wrong_commands():
    assert refused(batchscope("replay"), "TRACE")
    assert refused(batchscope("no-such-command"), "no-such-command")
    assert refused(batchscope("demo", "--requests", "0"), "--requests 0", "a whole number 1..")
