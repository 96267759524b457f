"""Schedulers that report, around any of vLLM's and around one of somebody else, on stand-ins for vLLM's classes."""

import importlib
import sys
import types
from types import SimpleNamespace

import pytest

from batchscope import BatchLimiter, ConfigurationError
from batchscope.engines.vllm.admission import decoded


class Scheduler:
    """What a scheduler is, as far as it is called: one place, nobody waits."""

    def __init__(self, config):
        self.config = config
        self._pause_state = SimpleNamespace(name="UNPAUSED")
        self.running = [SimpleNamespace(request_id="a", is_prefill_chunk=True)]
        self.deferred_waiting = set()
        self.num_waiting_for_streaming_input, self.max_num_active_reqs, self.max_num_scheduled_tokens = 0, 1, 8
        self.scheduler_config = SimpleNamespace(enable_chunked_prefill=True)
        self.kv_cache_manager = SimpleNamespace(allocate_slots=lambda *_: [])

    def get_request_counts(self):
        return len(self.running), 0

    def schedule(self, throttle_prefills=False):
        """A throttled step leaves the only prompt alone."""
        tokens = {} if throttle_prefills else {"a": 1}
        return SimpleNamespace(
            num_scheduled_tokens=tokens, total_num_scheduled_tokens=len(tokens), scheduled_spec_decode_tokens={}
        )

    def update_from_output(self, output, model_output):
        return {0: SimpleNamespace(scheduler_stats=self.make_stats(), model_output=model_output)}

    def make_stats(self, kv_connector_stats=None):
        return SimpleNamespace(num_kv_fetch_reqs_by_stage={}, kv_connector_stats=kv_connector_stats)


class AsyncScheduler(Scheduler):
    pass


class Instrumented(AsyncScheduler):
    """As an engine around vLLM brings one: it measures, and hands everything on."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.heard = []

    def schedule(self, throttle_prefills=False):
        self.heard.append("schedule")
        return super().schedule(throttle_prefills)

    def update_from_output(self, output, model_output):
        self.heard.append("update")
        return super().update_from_output(output, model_output)


@pytest.fixture
def module(monkeypatch):
    """``batchscope.plugins.vllm_scheduler``, imported anew in a process where vLLM is this."""
    monkeypatch.delenv("BATCHSCOPE_VLLM_SCHEDULER", raising=False)
    for name in ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, scheduler in (("scheduler", Scheduler), ("async_scheduler", AsyncScheduler)):
        made = types.ModuleType(f"vllm.v1.core.sched.{name}")
        setattr(made, scheduler.__name__, scheduler)
        monkeypatch.setitem(sys.modules, made.__name__, made)
    theirs = types.ModuleType("dynamo_like")
    theirs.Instrumented, theirs.nothing = Instrumented, object()
    monkeypatch.setitem(sys.modules, "dynamo_like", theirs)
    monkeypatch.delitem(sys.modules, "batchscope.plugins.vllm_scheduler", raising=False)
    yield importlib.import_module("batchscope.plugins.vllm_scheduler")
    del sys.modules["batchscope.plugins.vllm_scheduler"]


def step(scheduler, *asked):
    """One step as vLLM's engine core does it: what is told of it, and what the model gave."""
    output = scheduler.schedule(*asked)
    (outputs,) = scheduler.update_from_output(output, "results").values()
    return decoded(outputs.scheduler_stats.num_kv_fetch_reqs_by_stage), outputs.model_output


def test_each_scheduler_reports_and_hands_its_results_on(module):
    other = module.reporting(Instrumented)("configuration")
    for scheduler in (module.ReportingScheduler("c"), module.ReportingAsyncScheduler(config="c"), other):
        said, results = step(scheduler, False)
        assert (said.limited_by, said.request_count, results) == (BatchLimiter.DEMAND, 1, "results")
        assert said.ended_us > 0
    assert other.heard == ["schedule", "update"]
    assert other.config == "configuration"


@pytest.mark.parametrize("asked", [(True,), ()])
def test_a_step_that_the_engine_throttled_is_a_policys(module, asked):
    scheduler = module.ReportingAsyncScheduler("c")
    said, _ = step(scheduler, *asked)
    assert said.limited_by is (BatchLimiter.POLICY if asked else BatchLimiter.DEMAND)


def test_the_variable_names_the_class_to_go_around(module, monkeypatch):
    monkeypatch.setenv("BATCHSCOPE_VLLM_SCHEDULER", "dynamo_like.Instrumented")
    made = module.ReportingOther
    assert issubclass(made, module.Reporting)
    assert issubclass(made, Instrumented)
    assert step(made("c"))[0].request_count == 1


def test_one_that_reports_already_is_left_as_it_is(module):
    class Mine(module.Reporting, Instrumented):
        pass

    assert module.reporting(Mine) is Mine
    assert module.reporting(module.ReportingScheduler) is module.ReportingScheduler


@pytest.mark.parametrize(
    "named", ["", "Instrumented", "dynamo_like.Missing", "no_such_module.X", "dynamo_like.nothing"]
)
def test_what_is_no_scheduler_is_said_with_the_variable_and_its_value(module, monkeypatch, named):
    monkeypatch.setenv("BATCHSCOPE_VLLM_SCHEDULER", named)
    with pytest.raises(ConfigurationError, match="BATCHSCOPE_VLLM_SCHEDULER"):
        module.ReportingOther  # noqa: B018  (asking for it makes it)


def test_other_names_are_missing_as_in_any_module(module):
    assert not hasattr(module, "ReportingNobody")
