"""deploy/prometheus: rules and alerts pass promtool's own unit tests, and speak of metrics that exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from batchscope.catalog import CATALOG

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


def run(*arguments):
    return subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=120
    )


@promtool
def test_rules_and_scrape_configuration_are_valid():
    done = run("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "batchscope.rules.yml" in done.stdout
    assert "batchscope.alerts.yml" in done.stdout


@promtool
@pytest.mark.parametrize("file", ["batch.test.yml", "slo.test.yml"])
def test_rules_give_and_alerts_fire_what_their_tests_say(file):
    done = run("test", "rules", f"tests/{file}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test():
    alerts = set(re.findall(r"alert: (\w+)", (PROMETHEUS / "batchscope.alerts.yml").read_text()))
    tests = "".join(path.read_text() for path in (PROMETHEUS / "tests").glob("*.yml"))
    fired = set(re.findall(r"alertname: (\w+)\s*\n?\s*exp_alerts:\s*\n\s+- exp_labels", tests))
    assert len(alerts) == 10
    assert fired == alerts


def test_rules_speak_only_of_metrics_of_the_catalogue():
    known = {metric.name for metric in CATALOG}
    for path in [*PROMETHEUS.glob("*.yml"), *(PROMETHEUS / "tests").glob("*.yml")]:
        names = set(re.findall(r"(?<![:\w])batchscope_\w+(?=[{\[ ]|$)", path.read_text(), re.MULTILINE))
        names = {name.removesuffix("_bucket") for name in names} - {"batchscope_slo_objective"}
        groups = set(re.findall(r"- name: (batchscope_\w+)", path.read_text()))
        assert names - groups <= known


def test_both_scrape_configurations_differ_in_the_native_histogram_setting_only():
    def settings(name):
        lines = (PROMETHEUS / name).read_text().splitlines()
        return [line for line in lines if not line.lstrip().startswith("#")]

    assert [line for line in settings("prometheus-3.8.yml") if "native" not in line] == settings("prometheus.yml")
