"""``batchscope check``: which numbers an engine can give, which it cannot, and its exit code."""

import json

from command_line import batchscope, refused
from scrape_doubles import Site, captured, needs_captures

KEY = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n"


def check(page, *arguments):
    with Site({"/metrics": page}) as site:
        return batchscope("check", site.url, *arguments)


@needs_captures
def test_vllm_gives_its_numbers_and_says_what_they_mean():
    run = check(captured("vllm_metrics"))
    assert run.code == 0
    for part in ("vLLM", "0.12 or newer", "21 given, 10 not", "0 of the engine's are not known", "1,455",
                 "vllm:request_queue_time_seconds", "one-token", "max_num_seqs is not exported"):  # fmt: skip
        assert part in run.output, part
    assert "…" not in run.output
    assert all(line == line.rstrip() and len(line) <= 100 for line in run.output.splitlines())


@needs_captures
def test_json_is_one_document():
    run = check(captured("llamacpp_metrics"), "--json")
    report = json.loads(run.output)
    assert (run.code, report["schema"], report["engine"]) == (0, "batchscope.check/1", "llama.cpp")
    assert report["given"]["generation_tokens"] == {
        "kind": "counter", "source": "llamacpp:tokens_predicted_total", "value": 768,
        "definition": "counted when a request finishes"}  # fmt: skip
    assert "distributions" in report["not_given"]["time_to_first_token"]
    assert report["unknown_names"] == []


def test_an_engine_without_its_key_numbers_is_1():
    run = check(KEY)
    assert run.code == 1
    assert "LACKING" in run.output
    assert "generation_tokens" in run.output
    assert json.loads(check(KEY, "--json").output)["lacking"] == ["generation_tokens"]


def test_a_number_that_is_announced_is_not_lacking():
    assert check(KEY + b"# TYPE vllm:generation_tokens_total counter\n").code == 0


def test_names_of_a_newer_version_are_listed():
    run = check(KEY + b"vllm:generation_tokens_total 5\nvllm:brand_new 1\n")
    assert run.code == 0
    assert "vllm:brand_new" in run.output
    assert "1 of the engine's are not known" in run.output


def test_families_that_are_known_and_left_alone_are_named_for_what_they_are():
    names = [f"vllm:kv_offload_{name}" for name in ("size", "load_bytes", "store_time", "stores_skipped")]
    page = KEY + b"vllm:generation_tokens_total 5\n" + "".join(f"{name} 1\n" for name in names).encode()
    run = check(page)
    assert run.code == 0
    assert "0 of the engine's are not known" in run.output
    assert "Known, and not used" in run.output
    assert "and 1 more" in run.output
    unused = json.loads(check(page, "--json").output)["unused_names"]
    assert unused == {"KV cache offload: tiers, loads, stores": sorted(names)}


def test_a_value_that_cannot_be_right_is_listed():
    run = check(KEY + b"vllm:generation_tokens_total -5\n")
    assert run.code == 1
    assert "vllm:generation_tokens_total = -5: expected a count" in run.output


def test_a_page_of_no_known_engine_is_1_and_says_which_are_known():
    run = check(b"node_load1 0.5\n")
    assert run.code == 1
    assert "expected vLLM" in run.output
    assert json.loads(check(b"node_load1 0.5\n", "--json").output)["engine"] == ""


def test_no_page_is_2_in_one_line():
    assert refused(batchscope("check", "http://127.0.0.1:1"), "http://127.0.0.1:1/metrics", "connection refused")
    assert refused(batchscope("check", "ftp://x"), "URL ftp://x", "expected http://HOST")
    assert refused(batchscope("check"), "URL")
    assert refused(check(b'[{"iter": 1}]\n'), "JSON", "/prometheus/metrics")


def test_what_a_page_says_is_shown_never_sent_to_the_terminal():
    run = check(KEY + b"vllm:generation_tokens_total \x1b[31mred\n")
    assert refused(run, "not a sample", "line 3")
    assert "\x1b" not in run.errors
