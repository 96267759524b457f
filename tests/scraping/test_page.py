"""Reading a page: known lines exactly, everything else at no cost, and nothing that is not Prometheus text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrape_doubles import captured, needs_captures, page, read_page, reading

from batchscope.scraping.fetch import ScrapeError, ScrapeLimits
from batchscope.scraping.page import MAX_UNKNOWN

GOOD = "vllm:num_requests_running 3\n"


def read_text(text, **limits):
    pieces = [text.encode() if isinstance(text, str) else text]
    return read_page(pieces, lambda name: name.startswith("vllm:"), ScrapeLimits(**limits), "http://x/metrics")


def refused(text, *parts, **limits):
    with pytest.raises(ScrapeError) as caught:
        read_text(text, **limits)
    message = str(caught.value)
    assert message.startswith("http://x/metrics: line ")
    assert len(message) < 500
    for part in parts:
        assert part in message, message
    return True


def test_known_samples_are_read_with_labels_and_unknown_ones_only_named():
    found = read_text(
        "# HELP vllm:a An \u00e4\n# TYPE vllm:a counter\n"
        'vllm:a{model="a\\"b,c}d",rank="0"} 3 1700000000000\n'
        'other_metric{x="1"} 5\nvllm:b  +Inf\n'
    )  # fmt: skip
    assert [(sample.name, dict(sample.labels), sample.value) for sample in found.samples] == [
        ("vllm:a", {"model": 'a"b,c}d', "rank": "0"}, 3.0),
        ("vllm:b", {}, float("inf")),
    ]
    assert found.unknown == {"other_metric"}
    assert found.families == {"vllm:a"}


def test_a_counter_keeps_the_name_it_has_on_the_page():
    found = read_text("# TYPE vllm:count counter\nvllm:count 5\n")
    assert [sample.name for sample in found.samples] == ["vllm:count"]


@needs_captures
@given(st.lists(st.integers(1, 5000), max_size=20))
def test_where_the_pieces_of_a_page_are_cut_does_not_matter(sizes):
    text = captured("llamacpp_metrics")
    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    whole = read_page([*pieces, rest], lambda name: name.startswith("llamacpp:"))
    assert len(whole.samples) == 15


def test_windows_line_ends_and_blank_lines_are_no_matter():
    assert len(read_text("\r\nvllm:a 1\r\n\r\nvllm:b 2\r\n").samples) == 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("the page is empty",)),
        ("\n\n", ("the page is empty",)),
        ("<html><body>Not found</body></html>\n", ("line 1", "not Prometheus text", "a web page")),
        ("<!DOCTYPE html><html><body>no line ends</body></html>", ("line 1", "not Prometheus text", "a web page")),
        ('{"hello": 1}', ("line 1", "not Prometheus text", "JSON")),
        ("hello world", ("line 1", "not Prometheus text: 'hello world'")),
        (b"\x89PNG", ("line 1", "not UTF-8 at byte 1")),
        ("# HELP vllm:a wha", ("line 1", "cut short")),
        ('vllm:a{model="x', ("line 1", "cut short")),
        ('[{"gpuMemUsage": 5}]\n', ("line 1", "JSON", "/prometheus/metrics")),
        (GOOD + "what is this?\n\n!\n", ("line 4", "not Prometheus text", "'!'")),
        (GOOD + "vllm:a{model=x} 1\n", ("line 2", "not a sample", "vllm:a{model=x} 1")),
        (GOOD + 'vllm:a{model="x} 1\n', ("line 2", "not a sample")),
        (GOOD + 'vllm:a{ ="x"} 1\n', ("line 2", "not a sample")),
        (GOOD + "vllm:a one\n", ("line 2", "not a sample")),
        (GOOD + "vllm:a \n", ("line 2", "not a sample")),
        (GOOD + 'vllm:a{x="1",x="2"} 1\n', ("line 2", "not a sample")),
        (GOOD.encode() + b'other{x="\xff\xfe"} 1\n', ("line 2", "not UTF-8 at byte 10")),
        (GOOD + "vllm:a 12", ("line 2", "cut short")),
    ],
)
def test_what_is_not_prometheus_text_is_refused_with_its_line(text, parts):
    assert refused(text, *parts)


@pytest.mark.parametrize(
    ("text", "limits", "parts"),
    [
        ("a 1\n" * 11, {"max_lines": 10}, ("more than 10 lines",)),
        ("vllm:a 1\n" * 11, {"max_samples": 10}, ("line 11", "more than 10 samples")),
        ("vllm:a{" + ",".join(f'l{n}="x"' for n in range(21)) + "} 1\n", {"max_labels": 20}, ("more than 20 labels",)),
        ('a 1\nvllm:a{x="' + "y" * 200 + '"} 1\n', {"max_line_bytes": 100}, ("line 2", "longer than 100 bytes")),
        ("vllm:" + "a" * 200, {"max_line_bytes": 100}, ("line 1", "longer than 100 bytes")),
        ("[" + "{}," * 200, {"max_line_bytes": 100}, ("line 1", "longer than 100 bytes", "trtllm-serve")),
    ],
)  # fmt: skip
def test_more_than_an_engine_ever_has_is_cut_off(text, limits, parts):
    assert refused(text, *parts, **limits)


def test_names_without_end_are_not_remembered_without_end():
    found = read_text("".join(f"name_{n} 1\n" for n in range(MAX_UNKNOWN + 100)))
    assert len(found.unknown) == MAX_UNKNOWN


def test_an_integer_of_any_length_is_a_number():
    assert read_text("vllm:a " + "9" * 400 + "\n").samples[0].value == float("inf")


@given(st.text(st.sampled_from('vlm:a_{}="\\, \n#0123456789.eE+-NaInf\x00\u00e9'), max_size=300))
def test_any_text_is_read_or_refused_never_anything_else(text):
    try:
        read_text(text)
    except ScrapeError as error:
        assert "line" in str(error)  # noqa: PT017  (both ends are right)


@needs_captures
@pytest.mark.parametrize(("name", "samples"), [("vllm_metrics", 238), ("sglang_metrics", 149), ("llamacpp_metrics", 9)])
def test_of_a_real_page_only_what_is_used_is_parsed(name, samples):
    assert len(page(captured(name)).samples) == samples


def test_a_page_of_no_engine_is_no_reading():
    assert reading("node_cpu_seconds_total 5\nprocess_start_time_seconds 17\n") is None
