"""Settings from the environment: each wrong one is told, and none of them stops the engine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope import ConfigurationError, SloTargets
from batchscope.configuration import parse_slo
from batchscope.plugins.settings import Settings, read_settings
from batchscope.plugins.switch import switched_on


def read(**variables):
    said = []
    return read_settings({f"BATCHSCOPE_{name}": value for name, value in variables.items()}, said.append), said


def test_nothing_set_is_the_default_endpoint_on_loopback():
    assert read() == (Settings("127.0.0.1", 9464, None, None, None), [])


def test_everything_set_is_taken():
    settings, said = read(
        HOST="0.0.0.0",  # noqa: S104  (a value, not bound)
        PORT="8000", TOKEN_FILE="/run/token", SNAPSHOT_DIR="/run/snapshots", SLO="e2e_latency=2",
    )  # fmt: skip
    assert said == []
    assert settings == Settings("0.0.0.0", 8000, Path("/run/token"), "/run/snapshots", SloTargets(e2e_latency=2.0))  # noqa: S104


def test_where_snapshots_are_published_a_port_is_opened_only_if_asked_for():
    assert read(SNAPSHOT_DIR="/run/snapshots")[0].port is None
    assert read(SNAPSHOT_DIR="/run/snapshots", PORT="0")[0].port == 0


@pytest.mark.parametrize("port", ["off", "None", " no "])
def test_a_port_can_be_switched_off(port):
    assert read(PORT=port) == (Settings(port=None), [])


@pytest.mark.parametrize("port", ["-1", "65536", "http", "94.64", "\u0663\u0664x", "9" * 400])
def test_a_wrong_port_is_told_and_none_is_opened(port):
    settings, (line,) = read(PORT=port)
    assert settings.port is None
    assert line.startswith("BATCHSCOPE_PORT = ")
    assert "65535" in line


@pytest.mark.parametrize(
    "slo", ["0.5", "ttft=0.5", "e2e_latency=", "e2e_latency=-1", "e2e_latency=1,e2e_latency=2", "e2e_latency=nan", ","]
)
def test_a_wrong_slo_is_told_and_none_is_measured(slo):
    settings, (line,) = read(SLO=slo)
    assert settings.slo is None
    assert line.endswith("no SLO is measured")


def test_targets_are_seconds_by_name():
    targets = parse_slo(" time_to_first_token = 0.5 , time_per_output_token=0.05 ")
    assert targets == SloTargets(time_to_first_token=0.5, time_per_output_token=0.05)
    with pytest.raises(ConfigurationError, match="time_to_first_token"):
        parse_slo("ttft=1")


@given(st.dictionaries(st.sampled_from(["HOST", "PORT", "TOKEN_FILE", "SNAPSHOT_DIR", "SLO"]), st.text()))
def test_no_environment_raises(variables):
    read(**variables)


@pytest.mark.parametrize(("value", "on"), [("1", True), ("yes", True), ("0", False), (" OFF ", False), ("", False)])
def test_a_plug_in_is_on_where_its_variable_says_so(value, on):
    assert switched_on({"BATCHSCOPE_VLLM": value}, "BATCHSCOPE_VLLM") is on
    assert not switched_on({}, "BATCHSCOPE_VLLM")


def test_targets_by_request_class_are_told_apart_by_their_names():
    targets = parse_slo(
        "interactive: time_to_first_token=0.5, time_per_output_token=0.05; batch: e2e_latency=60; rest:"
    )
    assert targets == {
        "interactive": SloTargets(time_to_first_token=0.5, time_per_output_token=0.05),
        "batch": SloTargets(e2e_latency=60.0),
        "rest": SloTargets(),
    }


@pytest.mark.parametrize(
    "text", ["a: e2e_latency=1; e2e_latency=2", "a: e2e_latency=1; a: e2e_latency=2", ": e2e_latency=1", "a: ttft=1",
             ";".join(f"c{number}: e2e_latency=1" for number in range(9))],
)  # fmt: skip
def test_classes_that_cannot_be_are_said(text):
    with pytest.raises(ConfigurationError):
        parse_slo(text)
