"""Are the batches of a recorded engine those that its policy in ``batchscope.simulator.policies`` forms?

The embedded scheduler is given the recorded requests, each before the iteration in which the engine knew of it, and
forms a batch where the engine formed one. What it takes how long plays no part: it is the rules alone that are tried,
iteration by iteration. No preemption is compared, which an engine may tell of later, and no block, which an engine
may take chunk by chunk and the policy at once: whoever got none would not be in the batch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from batchscope.ledger import Run, open_run
from batchscope.prediction.recorded import observed_run
from batchscope.simulator.scheduler import Scheduler
from batchscope.simulator.workload import RequestSpec

MOST_DIFFERENT = 0.005
"""Of the iterations: where an engine tells of a batch in two parts."""


class Compared(NamedTuple):
    """How many iterations there were, in how many the batch was another one, and the first of these in words."""

    iterations: int
    different: int
    first: str

    @property
    def same(self) -> bool:
        """Whether the rules are the engine's."""
        return self.iterations > 0 and self.different <= MOST_DIFFERENT * self.iterations


def compared(path: Path) -> Compared:
    """Form every batch of the run at ``path`` again."""
    run = open_run(path)
    scheduler = Scheduler(observed_run(run).options)
    requests = _requests(run)
    arrived = ended = different = 0
    first = ""
    iterations = run.iterations().sort_by("started_at").to_pylist()
    for row in iterations:
        known = ended + row["running_requests"] + row["waiting_requests"]
        for number in range(arrived, known):
            scheduler.enqueue(scheduler.accept(requests[number], number))
        arrived, ended = known, ended + row["requests_completed"]
        batch = scheduler.form_batch()
        ours = (len(batch), batch.prefill_tokens + len(batch.decode_slots), batch.running, batch.waiting)
        theirs = (row["request_count"], row["scheduled_tokens"], row["running_requests"], row["waiting_requests"])
        if ours != theirs:
            different += 1
            first = first or f"iteration {row['iteration']}: (requests, tokens, running, waiting) {theirs}, ours {ours}"
        scheduler.complete(batch)
    return Compared(len(iterations), different, first)


def _requests(run: Run) -> list[RequestSpec]:
    """In the order in which they were sent, which their ids end with: instants are too coarse for it."""
    rows = run.requests().to_pylist()
    specs = [
        RequestSpec(row["request_id"], row["arrived_at"], row["prompt_tokens"], row["tokens_generated"]) for row in rows
    ]
    return sorted(specs, key=lambda spec: int(re.findall(r"\d+", spec.request_id)[0]))
