"""A continuous-batching engine in miniature. It knows nothing of batchscope.

The "model" is a random length and a linear time of an iteration; the clock is virtual, so a run takes no time.
``attach_tiny_engine.py`` measures it from outside.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass


class Clock:
    """Seconds that pass only when the engine says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Request:
    """``left`` is how many tokens are still to come: a real engine learns that from the model."""

    number: int
    arrival: float
    prompt_tokens: int
    left: int
    prefilled: bool = False


class TinyEngine:
    """First come, first served; a request that has a place emits a token in every iteration."""

    def __init__(self, clock: Clock, places: int = 8) -> None:
        self.clock = clock
        self.places = places
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def submit(self, request: Request) -> None:
        """A request arrives."""
        self.waiting.append(request)

    def form_batch(self) -> list[Request]:
        """Fill the free places; everybody who has one takes part."""
        while self.waiting and len(self.running) < self.places:
            self.running.append(self.waiting.popleft())
        return list(self.running)

    def forward(self, batch: list[Request]) -> None:
        """One iteration: everybody in the batch emits a token at its end."""
        prefill_tokens = sum(request.prompt_tokens for request in batch if not request.prefilled)
        self.clock.now += 0.02 + 0.0001 * prefill_tokens + 0.0005 * len(batch)
        for request in batch:
            request.prefilled = True
            request.left -= 1

    def retire(self, request: Request) -> None:
        """A request has emitted its last token and leaves its place."""
        self.running.remove(request)

    def serve(self, workload: list[Request]) -> None:
        """Serve requests in the order of their arrival until all have left."""
        due = deque(workload)
        while due or self.waiting or self.running:
            if not self.waiting and not self.running:
                self.clock.now = max(self.clock.now, due[0].arrival)
            while due and due[0].arrival <= self.clock.now:
                self.submit(due.popleft())
            batch = self.form_batch()
            self.forward(batch)
            for request in batch:
                if request.left == 0:
                    self.retire(request)


def toy_workload(count: int = 200, seed: int = 1) -> list[Request]:
    """``count`` requests, about six a second, with random lengths."""
    chance, arrival, requests = random.Random(seed), 0.0, []
    for number in range(count):
        arrival += chance.expovariate(6.0)
        requests.append(Request(number, arrival, chance.randint(20, 600), chance.randint(1, 80)))
    return requests


if __name__ == "__main__":
    engine = TinyEngine(Clock())
    engine.serve(toy_workload())
    print(f"served in {engine.clock.now:.1f} virtual seconds; how it went, nobody knows")
