"""mini-sglang: its overlapped loop, radix cache and page tables as they are; the engine is a cost and a coin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from foreign.arrays import TORCH, compare_key
from foreign.harness import EOS, Arrival, Clock, Outcome, Told, arrivals, bare_package, cost, next_token, stand_in

from batchscope import BatchLimiter, CompletionReason, SchedulerLimits


class Setup(NamedTuple):
    """What its scheduler is given; ``abandoned``: every so many-th request is aborted while it runs."""

    places: int
    budget: int
    pages: int
    page_size: int
    requests: list[Arrival]
    overlap: bool = True
    abandoned: int = 0


_MANY = arrivals(400, 16, (50, 1200), (10, 240), seed=6, families=4)
_FEW = arrivals(300, 10, (50, 900), (10, 160), seed=7)
WORKLOADS = {
    "32 places, overlap": Setup(32, 2048, 900, 16, _MANY),
    "16 places, overlap, aborts": Setup(16, 4096, 4000, 16, _FEW, abandoned=9),
    "64 places, chunks of 512, overlap": Setup(64, 512, 2400, 16, _MANY),
    "32 places, no overlap": Setup(32, 2048, 900, 16, _MANY, overlap=False),
}


def run(clones: Path) -> Iterator[Outcome]:
    """Each workload once."""
    home = clones / "mini-sglang" / "python" / "minisgl"
    bare_package("minisgl", home)
    stand_in("torch", **TORCH)
    for name in ("zmq", "zmq.asyncio", "msgpack", "transformers", "huggingface_hub", "tqdm.asyncio"):
        stand_in(name)
    stand_in("minisgl.kernel", fast_compare_key=compare_key)
    bare_package("minisgl.utils", home / "utils")
    from minisgl.utils import misc, registry

    log = SimpleNamespace(debug_rank0=_silent, warning_rank0=_silent)
    stand_in(
        "minisgl.utils", div_ceil=misc.div_ceil, align_down=misc.align_down, Registry=registry.Registry,
        init_logger=lambda _: log, load_tokenizer=lambda _: SimpleNamespace(eos_token_id=EOS),
    )  # fmt: skip
    stand_in("minisgl.engine", EngineConfig=object)
    for workload, setup in WORKLOADS.items():
        limits = SchedulerLimits(
            max_running_requests=setup.places,
            max_scheduled_tokens=setup.budget,
            kv_cache_blocks=setup.pages,
            kv_block_size=setup.page_size,
        )
        clock = Clock()
        told = Told(limits, clock)
        _serve(setup, clock, told)
        yield told.outcome("mini-sglang", workload)


def _silent(*_: Any) -> None:
    """Its log is of no interest here."""


class Engine:
    """Its engine's attributes; a batch takes the time that ``cost`` says and follows the one before it."""

    def __init__(self, setup: Setup, clock: Clock) -> None:
        self.device, self.stream, self.tp_cpu_group = "cpu", None, None
        self.num_pages = setup.pages
        self.max_seq_len = 4096
        self.page_table = TORCH["zeros"]((setup.places + 1, self.max_seq_len), dtype=TORCH["int32"])
        self.stream = SimpleNamespace(wait_stream=_silent)
        self.graph_runner = SimpleNamespace(pad_batch=lambda batch: setattr(batch, "padded_reqs", batch.reqs))
        self.attn_backend = SimpleNamespace(prepare_metadata=_silent)
        self.sampler = SimpleNamespace(prepare=_silent)
        self.free_at = 0.0
        self._clock = clock

    def forward_batch(self, batch: Any, _args: Any) -> Any:
        tokens, context = (sum(getattr(req, name) for req in batch.reqs) for name in ("extend_len", "device_len"))
        ends_at = self.free_at = max(self._clock(), self.free_at) + cost(tokens, batch.size, context)
        for req in batch.reqs:
            req.complete_one()
        sampled = [next_token(req.uid, req.device_len) for req in batch.reqs]
        tokens_out = TORCH["tensor"](sampled, dtype=TORCH["int32"])

        def synchronize() -> None:
            self._clock.now = max(self._clock.now, ends_at)

        return Output(tokens_out, tokens_out, SimpleNamespace(synchronize=synchronize))


class Output(NamedTuple):
    """What its scheduler unpacks."""

    next_tokens_gpu: Any
    next_tokens_cpu: Any
    copy_done_event: Any


class Asking:
    """Mixed into its admission: the conditions of a refusal, asked again."""

    told: Told
    stopped = False

    def try_add_one(self: Any, pending_req: Any) -> Any:
        added = super().try_add_one(pending_req)
        if added is None or pending_req.input_len > added.device_len:
            type(self).stopped = True
            self.told.stopped(BatchLimiter.TOKEN_BUDGET if added else self._refusal())
        return added

    def _refusal(self: Any) -> BatchLimiter:
        if self.token_budget <= 0:
            return BatchLimiter.TOKEN_BUDGET
        return BatchLimiter.KV_CACHE if self.table_manager.available_size else BatchLimiter.REQUEST_SLOTS


class Glue:
    """Mixed into its scheduler: batchscope where a batch is formed and where its results come in."""

    setup: Setup
    clock: Clock
    told: Told
    due: list[Arrival]
    left: set[int]
    cached: dict[int, int]
    adder: type[Asking]

    def offline_receive_msg(self: Any, blocking: bool = False) -> list[Any]:
        from minisgl.core import SamplingParams
        from minisgl.message import UserMsg

        if blocking:
            self.clock.now = max(self.clock.now, self.due[-1].at)
        messages = []
        while self.due and self.due[-1].at <= self.clock.now:
            request = self.due.pop()
            ids = TORCH["tensor"](request.tokens(), dtype=TORCH["int32"])
            messages.append(UserMsg(request.number, ids, SamplingParams(max_tokens=request.output)))
            self.told.arrived(request.number, request.prompt, request.at)
        return messages + self._abandoned()

    def _abandoned(self: Any) -> list[Any]:
        """Every so many-th request is aborted when it has decoded a while."""
        from minisgl.message import AbortBackendMsg

        often = self.setup.abandoned
        running = self.decode_manager.running_reqs if often else ()
        gone = [req.uid for req in running if req.uid % often == 0 and req.remain_len < 30]
        for uid in gone:
            self.left.add(uid)
            self.told.finished(uid, CompletionReason.CANCELLED, self.clock(), cached_tokens=self.cached[uid])
        return [AbortBackendMsg(uid) for uid in gone]

    def offline_send_result(self: Any, reply: list[Any]) -> None:
        self.replies = {message.uid: message for message in reply}

    def _schedule_next_batch(self: Any) -> Any:
        self.adder.stopped = False
        formed = super()._schedule_next_batch()
        if formed is not None:
            reqs = formed.batch.reqs
            if not self.adder.stopped:
                self.told.stopped(self._nobody_was_refused(reqs))
            half_done = [req for req in self.prefill_manager.pending_list if req.chunked_req]
            fresh = {req.uid: req.cached_len for req in reqs if req.uid not in self.cached}
            self.cached.update(fresh)
            usable = self.cache_manager.num_pages * self.setup.page_size
            formed.batch.formed = self.told.forming(
                [req.uid for req in reqs],
                scheduled_tokens=[req.extend_len for req in reqs],
                kv_cache_usage=1 - self.cache_manager.available_size / usable,
                cached_prompt_tokens=sum(fresh.values()),
                unscheduled_prefill_tokens=sum(req.input_len - req.chunked_req.device_len for req in half_done),
            )
        return formed

    def _nobody_was_refused(self: Any, reqs: list[Any]) -> BatchLimiter:
        if self.decode_manager.running_reqs <= set(reqs):
            return BatchLimiter.DEMAND
        return BatchLimiter.REQUEST_SLOTS if len(reqs) == self.setup.places else BatchLimiter.POLICY

    def _process_last_data(self: Any, last_data: Any) -> None:
        super()._process_last_data(last_data)
        if last_data is None:
            return
        batch = last_data[0].batch
        ended = [req.uid for req in batch.reqs if req.uid not in self.left and self._ended(req.uid)]
        self.told.iteration(batch.formed, [int(req.uid in self.replies) for req in batch.reqs])
        for uid in ended:
            self.left.add(uid)
            said = {"cached_tokens": self.cached[uid]}
            self.told.finished(uid, CompletionReason.EOS_TOKEN_REACHED, self.clock(), **said)

    def _ended(self: Any, uid: int) -> bool:
        return uid in self.replies and self.replies[uid].finished


def _serve(setup: Setup, clock: Clock, told: Told) -> None:
    from minisgl import core
    from minisgl.scheduler import prefill
    from minisgl.scheduler.scheduler import Scheduler

    stand_in("minisgl.engine", Engine=lambda _: Engine(setup, clock), EngineConfig=object)
    core._GLOBAL_CTX = None
    core.set_global_ctx(core.Context(setup.page_size))
    theirs = prefill.PrefillAdder
    prefill.PrefillAdder = type("Adder", (Asking, theirs), {"told": told})
    glue = {
        "adder": prefill.PrefillAdder,
        "setup": setup,
        "clock": clock,
        "told": told,
        "due": list(reversed(setup.requests)),
        "left": set(),
        "cached": {},
    }
    try:
        scheduler = type("Measured", (Glue, Scheduler), glue)(_config(setup))
        data = None
        while scheduler.due or data or scheduler.prefill_manager.runnable or scheduler.decode_manager.runnable:
            data = scheduler.overlap_loop(data) if setup.overlap else scheduler.normal_loop()
    finally:
        prefill.PrefillAdder = theirs


def _config(setup: Setup) -> Any:
    return SimpleNamespace(
        max_running_req=setup.places,
        page_size=setup.page_size,
        cache_type="radix",
        model_path="",
        max_extend_tokens=setup.budget,
        offline_mode=True,
        tp_info=None,
    )
