"""Traces: each format is recognised and read exactly, row by row; whatever is wrong is one clear error."""

from __future__ import annotations

import gzip
import importlib
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_doubles import SHARED, needs_shared

from batchscope.errors import ConfigurationError, WorkloadError
from batchscope.simulator import RequestSpec, open_trace

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n"
    "2023-11-16 18:15:50.9951691,879,55\n"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-10 23:59:59.009930+00:00,2399,6\n"
    "2024-05-11 00:00:00+00:00,76,15\n"
    "2024-05-11 02:00:00.5+02:00,76,15\n"
)
MOONCAKE = (
    '{"timestamp": 0, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]}\n'
    '{"timestamp": 27, "input_length": 1024, "output_length": 26, "hash_ids": [46, 2353]}\n'
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45.5,GPT-4,1087,230,1317,API log\n"
    "118,GPT-4,417,0,417,Conversation log\n"
    "120,ChatGPT,0,0,0,Conversation log\n"
)


@pytest.fixture
def write(tmp_path):
    def write_file(content: str | bytes, name: str = "trace"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def test_azure_2023_keeps_100_ns_since_the_first_row(write):
    trace = open_trace(write(AZURE))
    assert trace.format == "azure"
    assert list(trace) == [
        RequestSpec(2, 0.0, 374, 44),
        RequestSpec(3, 4.3145790, 396, 109),
        RequestSpec(4, 4.3145791, 879, 55),
    ]


def test_azure_2024_has_an_offset_and_may_leave_the_fraction_out(write):
    trace = open_trace(write(AZURE_2024))
    assert [spec.arrival for spec in trace] == [0.0, 0.99007, 1.49007]


def test_mooncake_names_the_blocks_of_its_prompts(write):
    trace = open_trace(write(MOONCAKE))
    assert trace.format == "mooncake"
    assert list(trace) == [
        RequestSpec(1, 0.0, 600, 52, (46, 47)),
        RequestSpec(2, 0.027, 1024, 26, (46, 2353)),
    ]


def test_burstgpt_keeps_its_failures_as_requests_without_output(write):
    trace = open_trace(write(BURSTGPT))
    assert trace.format == "burstgpt"
    assert list(trace) == [
        RequestSpec(2, 0.0, 472, 18, request_class="Conversation log"),
        RequestSpec(3, 40.5, 1087, 230, request_class="API log"),
        RequestSpec(4, 113.0, 417, 0, request_class="Conversation log"),
        RequestSpec(5, 115.0, 0, 0, request_class="Conversation log"),
    ]


@pytest.mark.parametrize("content", [AZURE, AZURE_2024, MOONCAKE, BURSTGPT])
def test_gzip_is_seen_by_content_and_reads_the_same(write, content):
    assert list(open_trace(write(gzip.compress(content.encode())))) == list(open_trace(write(content)))


@pytest.mark.parametrize("content", [AZURE, MOONCAKE, BURSTGPT])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\n\n  \n") + "\n",
    ],
    ids=["crlf", "no last newline", "byte order mark", "blank lines"],
)
def test_the_same_rows_in_another_dress_are_the_same_requests(write, content, change):
    def without_id(trace):
        return [(s.arrival, s.prompt_tokens, s.output_tokens, s.prefix_hashes) for s in trace]

    assert without_id(open_trace(write(change(content)))) == without_id(open_trace(write(content)))


def test_columns_are_found_by_name_in_any_order_beside_others(write):
    rows = [line.split(",") for line in BURSTGPT.splitlines()]
    moved = "".join(",".join([row[5], "x", *row[:5]]) + "\n" for row in rows)
    assert list(open_trace(write(moved))) == list(open_trace(write(BURSTGPT)))


def test_limit_takes_the_first_rows_and_rate_scale_brings_them_sooner(write):
    trace = open_trace(write(MOONCAKE), limit=1)
    assert [spec.request_id for spec in trace] == [1]
    assert [spec.arrival for spec in open_trace(write(MOONCAKE), rate_scale=2)] == [0.0, 0.0135]


def test_a_trace_can_be_read_again(write):
    trace = open_trace(write(AZURE))
    assert list(trace) == list(trace)


def bad(content, line, *words):
    return pytest.param(content, line, words, id=" ".join(words)[:40])


AZURE_HEADER = AZURE.splitlines()[0] + "\n"
BURSTGPT_HEADER = BURSTGPT.splitlines()[0] + "\n"
GOOD = "2023-11-16 18:15:46.6805900,374,44\n"
BAD_ROWS = [
    bad(AZURE_HEADER + GOOD + "2023-11-16 18:15:47,-3,44\n", 3, "ContextTokens = '-3'", "1..2147483647"),
    bad(AZURE_HEADER + "2023-11-16 18:15:47,0,44\n", 2, "ContextTokens = 0", "1..2147483647"),
    bad(AZURE_HEADER + "2023-11-16 18:15:47,4.5,44\n", 2, "ContextTokens = '4.5'", "whole number"),
    bad(AZURE_HEADER + "2023-11-16 18:15:47,٣,44\n", 2, "ContextTokens = '٣'", "whole number"),
    bad(AZURE_HEADER + "2023-11-16 18:15:47,9999999999,44\n", 2, "ContextTokens = 9999999999"),
    bad(AZURE_HEADER + f"2023-11-16 18:15:47,{'9' * 6000},44\n", 2, "ContextTokens = '999", "..."),
    bad(AZURE_HEADER + "2023-11-16 18:15:47,1,\n", 2, "GeneratedTokens = ''", "0..2147483647"),
    bad(AZURE_HEADER + "2023-11-16 18:15:47,1\n", 2, "2 values, expected 3"),
    bad(AZURE_HEADER + "2023-11-16 18:15:47,1,2,3\n", 2, "4 values, expected 3"),
    bad(AZURE_HEADER + '2023-11-16 18:15:47,"1,2\n', 2, "not CSV"),
    bad(AZURE_HEADER + "yesterday,1,2\n", 2, "TIMESTAMP = 'yesterday'", "2023-11-16 18:15:46.6805900"),
    bad(AZURE_HEADER + "2023-02-30 18:15:47,1,2\n", 2, "TIMESTAMP = '2023-02-30"),
    bad(AZURE_HEADER + "2023-11-16 18:15:47+77:00,1,2\n", 2, "TIMESTAMP = '2023-11-16 18:15:47+77:00'"),
    bad(AZURE_HEADER + GOOD + "2023-11-16 18:15:46.1805900,1,2\n", 3, "time goes backwards by 0.5 s", "order"),
    bad(AZURE_HEADER + GOOD + "\0\0\0\n", 3, "1 values, expected 3"),
    bad((AZURE_HEADER + GOOD).encode() + b"2023-11-16 18:15:47,\xff,2\n", 3, "byte 0xff is not text", "UTF-8"),
    bad(AZURE_HEADER + GOOD + "x" * 2**21 + "\n", 3, "line is too long", "1048576 bytes"),
    bad(BURSTGPT_HEADER + "5,ChatGPT,0,18,18,API log\n", 2, "Request tokens = 0", "1..2147483647"),
    bad(BURSTGPT_HEADER + "-5,ChatGPT,1,18,18,API log\n", 2, "Timestamp = '-5'", "seconds >= 0"),
    bad(BURSTGPT_HEADER + "nan,ChatGPT,1,18,18,API log\n", 2, "Timestamp = 'nan'", "seconds >= 0"),
    bad(MOONCAKE + '{"timestamp": 28}\n', 3, "wrong JSON object", "input_length"),
    bad(MOONCAKE + MOONCAKE, 3, "time goes backwards by 0.027 s"),
    bad(MOONCAKE + "[1, 2]\n", 3, "wrong JSON object", "array"),
    bad(MOONCAKE + '{"timestamp": 28, \n', 3, "not JSON", "one object a line"),
    bad(MOONCAKE + MOONCAKE.splitlines()[1].replace("1024", '"7"'), 3, "wrong JSON object", "input_length"),
    bad(MOONCAKE + MOONCAKE.splitlines()[1].replace("1024", "7.5"), 3, "wrong JSON object", "input_length"),
    bad(MOONCAKE + MOONCAKE.splitlines()[1].replace("1024", "-7"), 3, "input_length = -7", "1..2147483647"),
    bad(MOONCAKE + MOONCAKE.splitlines()[1].replace("1024", "0"), 3, "input_length = 0", "1..2147483647"),
    bad(MOONCAKE + MOONCAKE.splitlines()[1].replace("26", "-1"), 3, "output_length = -1", "0..2147483647"),
    bad(MOONCAKE + MOONCAKE.splitlines()[1].replace("27", "-1"), 3, "timestamp = -1", "milliseconds >= 0"),
    bad(MOONCAKE + MOONCAKE.splitlines()[1].replace("1024", "1025"), 3, "2 hash_ids", "expected 3"),
    bad(MOONCAKE + '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n", 3, ""),
]


@pytest.mark.parametrize(("content", "line", "words"), BAD_ROWS)
def test_a_broken_row_is_an_error_with_file_line_what_and_what_was_expected(write, content, line, words):
    path = write(content)
    trace = open_trace(path)
    with pytest.raises(WorkloadError) as caught:
        list(trace)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert all(word in message for word in words)
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no list of a process's open files here")
@pytest.mark.parametrize("content", [AZURE + "not,a,row\n", "no,trace\n1,2\n"])
def test_who_keeps_the_error_keeps_no_file_open(write, content):
    path = write(content)
    with pytest.raises(WorkloadError) as caught:
        list(open_trace(path))
    files = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert str(path) in str(caught.value)
    assert str(path) not in files


GOOD_ROWS = {
    b"TI": b"2024-11-16 18:15:46.6805900,374,44\n",
    b"Ti": b"118,GPT-4,417,8,425,Conversation log\n",
    b'{"': b'{"timestamp": 99, "input_length": 7, "output_length": 3, "hash_ids": [1]}\n',
}


@pytest.mark.parametrize(("content", "line", "words"), BAD_ROWS)
def test_skipping_a_broken_row_gives_what_the_file_without_it_gives(write, content, line, words):
    data = content if isinstance(content, bytes) else content.encode()
    lines = [*data.rstrip(b"\n").split(b"\n"), GOOD_ROWS[data[:2]]]
    skipping = open_trace(write(b"\n".join(lines)), skip_bad_rows=True)
    read = list(skipping)
    del lines[line - 1]
    without = list(open_trace(write(b"\n".join(lines), "without")))
    assert skipping.skipped_rows == 1
    assert [(s.arrival, s.prompt_tokens, s.output_tokens, s.prefix_hashes) for s in read] == [
        (s.arrival, s.prompt_tokens, s.output_tokens, s.prefix_hashes) for s in without
    ]


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "blank": (b"\n \n\n", "the file is empty"),
    "empty gzip": (gzip.compress(b""), "the file is empty"),
    "header only": (AZURE_HEADER.encode(), "there is no request in it"),
    "other csv": (
        b"time,tokens in,tokens out\n1,2,3\n",
        "unknown trace format with the columns 'time', 'tokens in'",
    ),
    "other json": (b'{"prompt": "hi"}\n', "unknown trace format with the keys 'prompt'"),
    "binary": (bytes(range(255, 0, -1)), "line 1: byte 0xff is not text"),
    "zeros": (bytes(3_000_000), "line 1: the line is too long"),
    "broken json": (b'{"timestamp": 0,\n', "line 1: not JSON"),
    "cut gzip": (gzip.compress(AZURE.encode())[:-20], "gzip data is cut off or damaged"),
    "damaged gzip": (gzip.compress(AZURE.encode())[:30] + b"xxxx", "gzip data is cut off or damaged"),
    "only the magic": (b"\x1f\x8b", "gzip data is cut off or damaged"),
    "wrong gzip": (b"\x1f\x8bhello world", "gzip data is cut off or damaged"),
    "wrong checksum": (gzip.compress(AZURE.encode())[:-8] + bytes(8), "gzip data is cut off or damaged"),
    "garbage after gzip": (gzip.compress(AZURE.encode()) + b"more", "gzip data is cut off or damaged"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("skip", [False, True])
def test_a_file_that_is_no_trace_is_one_clear_error_even_when_rows_may_be_skipped(write, name, skip):
    content, words = BAD_FILES[name]
    path = write(content)
    with pytest.raises(WorkloadError) as caught:
        list(open_trace(path, skip_bad_rows=skip))
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_format_is_answered_with_the_known_ones(write):
    with pytest.raises(WorkloadError, match=r"azure .TIMESTAMP.*burstgpt .Timestamp.*mooncake .timestamp"):
        open_trace(write("a,b\n1,2\n"))


def test_a_path_that_is_not_a_file_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "none", tmp_path / "fifo", tmp_path / "none" / "x", tmp_path / "a\0b"):
        with pytest.raises(WorkloadError, match="expected a trace"):
            open_trace(path)
    with pytest.raises(WorkloadError, match="cannot be read"):
        open_trace(tmp_path / ("x" * 300))


def test_a_trace_of_which_no_row_is_good_is_an_error(write):
    with pytest.raises(WorkloadError, match=r"2 bad rows were skipped"):
        list(open_trace(write(AZURE_HEADER + "1,2,3\n4,5,6\n"), skip_bad_rows=True))


def test_an_error_in_the_middle_comes_after_the_rows_before_it(write):
    requests = iter(open_trace(write(AZURE + "broken\n")))
    assert [next(requests).prompt_tokens for _ in range(3)] == [374, 396, 879]
    with pytest.raises(WorkloadError, match="line 5"):
        next(requests)


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1.5}, {"rate_scale": 0}, {"rate_scale": float("nan")}])
def test_a_wrong_option_is_refused_with_its_name(write, options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        open_trace(write(AZURE), **options)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_raises_anything_but_a_workload_error(tmp_path_factory, data):
    content = data.draw(st.sampled_from([AZURE, AZURE_2024, MOONCAKE, BURSTGPT])).encode()
    if data.draw(st.booleans()):
        content = gzip.compress(content, mtime=0)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 20))
        content = content[:at] + data.draw(st.binary(max_size=6)) + content[at + cut :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    arrivals, message = [], ""
    try:
        arrivals = [spec.arrival for spec in open_trace(path, skip_bad_rows=data.draw(st.booleans()))]
    except WorkloadError as error:
        message = str(error)
    assert message.isprintable()
    assert arrivals == sorted(arrivals)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n" * 2**25, "bytes of blank lines, expected a row"),
        (b" " * 2**25, "bytes of blank lines, expected a row"),
        ((AZURE_HEADER + GOOD).encode() + b" \n" * 2**24, "bytes of blank lines, expected a row"),
        (b"x" * 2**25, "line 1: the line is too long"),
        ((AZURE_HEADER + GOOD).encode() + b"x" * 2**25, "line 3: the line is too long"),
    ],
    ids=["lines", "blanks", "blank end", "one line", "a long row"],
)
def test_a_packed_file_that_holds_much_of_nothing_is_refused_without_reading_it_all(
    tmp_path, monkeypatch, content, message
):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(content, compresslevel=1))
    unpacked = []

    class Counted(gzip.GzipFile):
        def readline(self, size=-1):
            unpacked.append(len(line := super().readline(size)))
            return line

    monkeypatch.setattr(gzip, "GzipFile", Counted)
    with pytest.raises(WorkloadError, match=message):
        list(open_trace(path))
    assert sum(unpacked) < 3 * 2**20


def test_a_long_trace_is_streamed(write):
    path = write(AZURE_HEADER + GOOD * 60_000)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        count = sum(1 for _ in open_trace(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 60_000
    assert peak < size / 5


@needs_shared
@pytest.mark.parametrize(
    ("name", "loader", "prompt", "output"),
    [
        ("azure_llm_2023_conv.csv", "azure", 22_361_870, 4_088_665),
        ("mooncake_conversation_trace.jsonl.gz", "mooncake", 144_793_823, 4_122_048),
    ],
)
def test_the_real_traces_are_read_as_the_oracle_reads_them(monkeypatch, name, loader, prompt, output):
    monkeypatch.syspath_prepend(str(SHARED / "oracle"))
    expected = getattr(importlib.import_module("loaders"), loader)(str(SHARED / "traces" / name))
    read = list(open_trace(SHARED / "traces" / name))
    assert [(s.arrival, s.prompt_tokens, s.output_tokens) for s in read] == [
        (r.arrival, r.prompt_tokens, r.output_tokens) for r in expected
    ]
    assert sum(s.prompt_tokens for s in read) == prompt
    assert sum(s.output_tokens for s in read) == output
