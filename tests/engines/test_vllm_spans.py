"""Who was in vLLM's batches, told by the scheduler as changes: followed to the request and the iteration, or not at all."""

import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_doubles import BOOTED, Finished, Reason, Scheduler, outputs

from batchscope import SchedulerLimits, SchedulerMetricsCollector
from batchscope.engines.vllm import batch_changes
from batchscope.engines.vllm.admission import AdmissionReporter
from batchscope.engines.vllm.source import FrontEnd, VllmSource
from batchscope.ledger import open_run
from batchscope.ledger.explain import Explainer, Metric
from batchscope.rows import RequestColumn, RowKind, SpanColumn
from batchscope.testing import RecordingSink


@dataclass(eq=False)
class Request:
    """As the scheduler has it; ``prompt`` and ``output`` tokens are still to do."""

    request_id: str
    prompt: int
    output: int
    arrived: float = 0.0
    priority: int = 0
    is_prefill_chunk: bool = False
    truth: list[tuple[int, int, int]] = field(default_factory=list)
    """Of each iteration: its number, tokens computed, tokens emitted; -1 and -1 where it was evicted."""


class Engine:
    """Schedules as it is told, one step ahead of its results, and reports to a source as vLLM does."""

    def __init__(self, *, front_end=None):
        self.now = BOOTED
        self.collector = SchedulerMetricsCollector(limits=SchedulerLimits(8, 256, 64), clock=lambda: self.now)
        self.source = VllmSource(self.collector, front_end=front_end)
        self.running, self.waiting, self.requests = [], [], {}
        self.finished_ids, self.ended, self.iterations = set(), [], 0
        self._pause_state = SimpleNamespace(name="UNPAUSED")
        self.deferred_waiting, self.num_waiting_for_streaming_input = set(), 0
        self.max_num_active_reqs, self.max_num_scheduled_tokens = 8, 256
        self.scheduler_config = SimpleNamespace(enable_chunked_prefill=True, max_num_batched_tokens=256)
        self.vllm_config = SimpleNamespace(speculative_config=None)
        self.kv_cache_manager = SimpleNamespace(allocate_slots=lambda *_: [])
        self.reporter = AdmissionReporter(self, lambda: self.now)
        self.now += 100.0

    def get_request_counts(self):
        return len(self.running), len(self.waiting)

    def arrive(self, name, prompt, output):
        request = self.requests[name] = Request(name, prompt, output, self.now)
        self.waiting.append(request)

    def schedule(self, takes, evict=(), drafts=None):
        """``takes``: of each request the tokens that it computes; whoever waits comes in."""
        self.reporter.scheduling()
        for request in evict:
            self.running.remove(request)
            self.waiting.insert(0, request)
        for request, computed in takes:
            if request in self.waiting:
                self.waiting.remove(request)
                self.running.append(request)
            request.is_prefill_chunk = computed < request.prompt
            request.prompt = max(request.prompt - computed, 0)
        output = SimpleNamespace(
            num_scheduled_tokens={request.request_id: computed for request, computed in takes},
            total_num_scheduled_tokens=sum(computed for _, computed in takes),
            scheduled_spec_decode_tokens={request.request_id: [0] * count for request, count in (drafts or {}).items()},
            finished_req_ids=self.finished_ids, preempted_req_ids={request.request_id for request in evict},
            chunks={request.request_id for request, _ in takes if request.is_prefill_chunk},
            evicted=list(evict),
        )  # fmt: skip
        self.finished_ids = set()
        self.reporter.scheduled(output)
        return output

    def results(self, output, emitted=None, *, heard=True, leaves=()):
        """The results come back: who has emitted its last token finishes, ``leaves`` go away untold."""
        self.now += 0.125
        tokens = {name: 0 if name in output.chunks else 1 for name in output.num_scheduled_tokens} | (emitted or {})
        self.reporter.processing(output, SimpleNamespace(
            sampled_token_ids=[[7] * count for count in tokens.values()],
            req_id_to_index={name: place for place, name in enumerate(tokens)},
        ))  # fmt: skip
        finished = []
        for name, count in tokens.items():
            request = self.requests.get(name)
            if request is None:
                continue  # it ended while it was scheduled once more
            request.truth.append((self.iterations, output.num_scheduled_tokens[name], count))
            request.output -= count
            if (request.output <= 0 and count) or request in leaves:
                self._end(request, finished, told=request not in leaves)
        for request in [one for one in output.evicted if one.request_id in self.requests]:
            request.truth.append((self.iterations, -1, -1))
        stats = Scheduler(len(self.running), len(self.waiting))
        self.reporter.tell(stats)
        if heard:
            self.source.record(stats, outputs(firsts=[0.1] * sum(tokens.values()), finished=finished))
        self.iterations += bool(tokens or self.running or self.waiting)

    def _end(self, request, finished, *, told):
        name = request.request_id
        del self.requests[name]
        (self.running if request in self.running else self.waiting).remove(request)
        self.finished_ids.add(name)
        if told:
            self.ended.append(request)
            finished.append(Finished(Reason.LENGTH, name[:-9], self.now - request.arrived))


def name_of(number):
    return f"cmpl-{number}-{number:08x}"


def expanded(sink):
    """Of each request's id: (iteration, tokens computed, emitted), (iteration, -1, -1) for an eviction."""
    run = sink.runs[0]
    ids, finished = {}, run.rows(RowKind.REQUEST)
    names = [one for block in run.blocks if getattr(block, "kind", None) is RowKind.REQUEST for one in block.objects]
    for row, name in zip(finished, names, strict=True):
        ids[row[RequestColumn.NUMBER]] = name
    found = defaultdict(list)
    for row in run.rows(RowKind.SPAN):
        _, request, first, count, emitted, computed, evicted = row[: SpanColumn.EVICTED + 1].tolist()
        for place in range(int(count)):
            told = (-1, -1) if evicted else (computed if place == 0 else 1, emitted)
            found[ids.get(request)].append((int(first) - 1 + place, *map(int, told)))
    return {name: sorted(steps) for name, steps in found.items()}


def play(seed, steps=60, ahead=True):
    """A random engine: chunks, whole prompts, drafts, evictions, clients that leave, drains anywhere."""
    random_ = random.Random(seed)
    engine, sink, pending, count = Engine(), RecordingSink(), [], 0
    engine.collector.subscribe(sink)
    for _ in range(steps):
        for _ in range(random_.choice((0, 0, 1, 2))):
            engine.arrive(name_of(count), random_.randint(1, 40), random_.randint(1, 12))
            count += 1
        evict = [one for one in engine.running if random_.random() < 0.04]
        takes, drafts, places = [], {}, 8 - len(engine.running)
        for request in [one for one in engine.running if one not in evict] + engine.waiting[: max(places, 0)]:
            if random_.random() < 0.1:
                continue  # stands still, or waits
            prompt = request.prompt
            drafted = random_.randint(1, 3) if not prompt and random_.random() < 0.05 else 0
            if drafted:
                drafts[request] = drafted
            takes.append((request, random_.choice((prompt, random_.randint(1, prompt))) if prompt else 1 + drafted))
        pending.append(engine.schedule(takes, evict, drafts))
        for request in evict:
            request.prompt = 5
        while len(pending) > random_.randint(0, int(ahead)):
            output = pending.pop(0)
            emitted = {name: random_.randint(1, 2) for name in output.scheduled_spec_decode_tokens}
            leaves = [one for one in engine.running if random_.random() < 0.02 and one.request_id in
                      output.num_scheduled_tokens]  # fmt: skip
            engine.results(output, emitted, leaves=leaves)
            if random_.random() < 0.3:
                engine.collector.drain()
    engine.collector.close()
    return engine, sink


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_every_finished_request_is_found_in_the_iterations_that_it_was_in_with_its_tokens(seed, ahead):
    engine, sink = play(seed, ahead=ahead)
    found = expanded(sink)
    for request in engine.ended:
        assert found[request.request_id[:-9]] == request.truth
    assert engine.collector.get_snapshot().totals.rejected_records == {}


@pytest.fixture
def whole_every_7(monkeypatch):
    monkeypatch.setattr(batch_changes, "_WHOLE_EVERY", 7)


def test_a_batch_told_whole_says_what_its_changes_said(whole_every_7):
    for seed in range(8):
        engine, sink = play(seed)
        found = expanded(sink)
        assert {request.request_id[:-9] for request in engine.ended} <= found.keys()
        assert all(found[request.request_id[:-9]] == request.truth for request in engine.ended)


def one_by_one(engine, steps, **options):
    """Steps with their results at once; each request that is there takes a token, or its whole prompt."""
    for _ in range(steps):
        takes = [(one, one.prompt or 1) for one in [*engine.running, *engine.waiting]]
        engine.results(engine.schedule(takes), **options)


def test_behind_a_step_that_was_not_heard_of_nothing_is_guessed_until_a_batch_is_told_whole(whole_every_7):
    engine, sink = Engine(), RecordingSink()
    engine.collector.subscribe(sink)
    engine.arrive(name_of(1), 4, 20)
    one_by_one(engine, 3)
    one_by_one(engine, 1, heard=False)
    one_by_one(engine, 16)
    engine.collector.close()
    (steps,) = expanded(sink).values()
    assert [step for step, *_ in steps] == [0, 1, 2, *range(5, 19)]  # 3 was not heard, 4 and 5 hang on it; 19 in all
    assert all(step[1:] == (1, 1) for step in steps[1:])


def test_two_answers_under_one_id_get_no_spans_of_each_other():
    engine, sink = Engine(), RecordingSink()
    engine.collector.subscribe(sink)
    for digits in ("00000001", "00000002"):
        engine.arrive(f"same-{digits}", 4, 5)
    one_by_one(engine, 5)
    engine.collector.close()
    assert expanded(sink).keys() == {None}
    assert len(sink.runs[0].rows(RowKind.REQUEST)) == 2


def test_of_several_front_ends_none_follows_what_it_hears_a_part_of():
    engine, sink = Engine(front_end=FrontEnd(0, 2)), RecordingSink()
    engine.collector.subscribe(sink)
    engine.arrive(name_of(1), 4, 3)
    one_by_one(engine, 3)
    engine.collector.close()
    assert not len(sink.runs[0].rows(RowKind.SPAN))


def test_a_change_that_cannot_be_made_costs_the_spans_and_not_the_limiter(caplog):
    engine = Engine()
    engine.arrive(name_of(1), 4, 3)
    output = engine.schedule([(engine.waiting[0], 4)])
    engine.reporter.processing(output, None)
    stats = Scheduler()
    engine.reporter.tell(stats)
    assert len(stats.num_kv_fetch_reqs_by_stage) == 2
    output = engine.schedule([(engine.running[0], 3)], drafts={engine.running[0]: 2})
    engine.reporter.processing(output, None)
    engine.reporter.tell(stats := replace(stats, num_kv_fetch_reqs_by_stage={}))
    assert len(stats.num_kv_fetch_reqs_by_stage) == 1
    assert "no longer reports who is in the batch" in caplog.text
    assert engine.reporter.failures == 0


def test_a_recorded_run_is_explained_by_part_to_its_whole_and_its_tokens_are_the_requests(tmp_path):
    engine = Engine()
    engine.collector.record_to(tmp_path)
    for number in range(12):
        engine.arrive(name_of(number), 30, 6)
    for step in range(60):
        running = list(engine.running)
        evict = running[-1:] if step == 8 else []
        takes = [(one, one.prompt or 1) for one in running if one not in evict]
        takes += [(one, 30) for one in engine.waiting[: 4 - len(running)] if not evict]
        output = engine.schedule(takes, evict)
        for request in evict:
            request.prompt = 31
        engine.results(output)
    engine.collector.close()
    run = open_run(tmp_path)
    assert len(run.requests()) == 12
    tokens = run.tokens().column("request").to_pylist()
    for row in run.requests().to_pylist():
        assert tokens.count(row["request"]) == 6
    explainer = Explainer(run)
    assert explainer.worst(Metric.E2E).not_recorded == ()
    parts = set()
    for row in run.requests().to_pylist():
        request = explainer.request(row["request_id"]).request
        assert sum(part.seconds for part in request.parts) == pytest.approx(row["total_time"], abs=1e-9)
        parts |= {part.part.value for part in request.parts}
    assert parts >= {"queued", "prefill", "decode", "preempted", "recomputed"}
    assert explainer.worst(Metric.GAP).slowest.worst
