"""The parts of transformers' continuous batching that the hooks touch, small enough to steer by hand."""

import queue
from types import SimpleNamespace

PENDING, PREFILLING, DECODING, FINISHED = range(4)


def state(request_id, prompt=4, limit=3, eos=()):
    return SimpleNamespace(
        request_id=request_id, initial_tokens=[5] * prompt, remaining_prefill_tokens=[], generated_tokens=[],
        position_offset=0, status=PENDING, limit=limit, _eos_token_ids=set(eos), _true_initial_tokens=0,
    )  # fmt: skip


class Scheduler:
    """Hands out the batch it was told to."""

    def __init__(self, max_requests_per_batch=4, safety_margin=0.0):
        self.max_requests_per_batch = max_requests_per_batch
        self.safety_margin = safety_margin
        self.reset()

    def reset(self):
        self.active_requests, self.waiting_requests = {}, {}
        self.starved_requests, self.block_new_requests = [], False
        self.cancelled, self.next_batches = [], []

    def schedule_batch(self, token_budget, cache_budget):
        batch = self.next_batches.pop(0)
        if batch is None:
            return None, False, 0, 0
        futures = []
        for one, length, emits in batch:
            self.waiting_requests.pop(one.request_id, None)
            self.active_requests[one.request_id] = one
            one.status = DECODING if emits else PREFILLING
            futures.append(SimpleNamespace(state=one, has_new_token=emits, query_length=length))
        return futures, False, sum(future.query_length for future in futures), 0

    def clear_cancelled_requests(self):
        gone, self.cancelled = self.cancelled, []
        for one in gone:
            self.active_requests.pop(one.request_id, None)
            self.waiting_requests.pop(one.request_id, None)
        return gone


class Processor:
    """Forms, runs and updates batches as the real one does; tokens are 9 unless a request says which."""

    def __init__(self, manager):
        self.manager, self.scheduler, self.in_flight = manager, Scheduler(), []
        self.cache = SimpleNamespace(compute_free_capacity=lambda: 0.25)
        self.offloading_manager = SimpleNamespace(offload_requests=self._offload)
        self.to_offload, self.tokens, self.fail_update = [], {}, False

    def _offload(self):
        for one in self.to_offload:
            del self.scheduler.active_requests[one.request_id]
            again = state(one.request_id, len(one.initial_tokens) + len(one.generated_tokens), one.limit)
            self.scheduler.waiting_requests[one.request_id] = again
            one.status = FINISHED
        self.to_offload = []
        return True

    def prepare_next_batch(self):
        while not self.manager.input_queue.empty():
            one = self.manager.input_queue.get()
            self.scheduler.waiting_requests[one.request_id] = one
        self.scheduler.clear_cancelled_requests()
        if not self.scheduler.next_batches:
            return False
        batch = self.scheduler.schedule_batch(64, 1000)
        while batch[0] is None:
            self.offloading_manager.offload_requests()
            batch = self.scheduler.schedule_batch(64, 1000)
        for future in batch[0]:
            future.state.position_offset += future.query_length
        self.in_flight.append(batch[0])
        return True

    def _generation_step(self, model):
        del model

    def update_batch(self):
        futures = self.in_flight.pop(0)
        if self.fail_update:
            raise RuntimeError("device lost")
        for future in futures:
            one = future.state
            if one.status in (FINISHED, PENDING) or not future.has_new_token:
                continue
            one.generated_tokens.append(self.tokens.get(one.request_id, 9))
            if one.generated_tokens[-1] in one._eos_token_ids or len(one.generated_tokens) >= one.limit:
                one.status = FINISHED
                self.scheduler.active_requests.pop(one.request_id)


class Manager:
    """A ContinuousBatchingManager whose loop the test turns by hand."""

    def __init__(self, queue_size=0):
        self.input_queue = queue.Queue(queue_size)
        self.batch_processor = None
        self.continuous_batching_config = SimpleNamespace(
            max_requests_per_batch=4, max_batch_tokens=64, num_blocks=None
        )
        self.output_router = SimpleNamespace(fail_and_deliver=lambda one, error: None)

    def add_request(self, one):
        self.input_queue.put(one, False)
        return one.request_id

    def _create_batch_processor(self):
        if self.batch_processor is not None:
            self.batch_processor.scheduler.reset()
        return self.batch_processor or Processor(self)

    def start(self):
        self.batch_processor = self._create_batch_processor()

    def step(self, *batch):
        """One turn of the generation loop with the batches given; ``None``: the cache is full."""
        processor = self.batch_processor
        processor.scheduler.next_batches = list(batch)
        if processor.prepare_next_batch():
            processor._generation_step(None)
            processor.update_batch()
