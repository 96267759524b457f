"""Who is in vLLM's batches, told by the scheduler as what changed since the step before.

A batch that only decodes is the batch of the step before: nothing has to be told of it. So of each step the requests
come, leave or take another number of tokens; every 1,024 steps, and after one that was not told, the whole batch is. A
number of the scheduler's own stands for a request; its id is told with the number, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, NamedTuple

import msgspec

from batchscope.text import readable

PREFIX = "batchscope/batch/1:"
"""Begins the key that says a step's change."""
_WHOLE_EVERY = 1024
_LONGEST_ID = 256
_DRAFTED = -1


class BatchChange(msgspec.Struct, array_like=True, frozen=True):
    """A step's batch, by what is otherwise than in the step before; of a ``whole`` one before which nobody was in.

    ``takes``: number, tokens computed, tokens emitted of whoever came or changed; who is not named goes on with what
    it took. ``left`` are in it no more, ``evicted`` were preempted, ``gone`` have ended and never come back. ``names``:
    the id of each number that was not named before.
    """

    step: int
    whole: bool = False
    names: dict[int, str] = {}
    takes: list[tuple[int, int, int]] = []
    left: list[int] = []
    evicted: list[int] = []
    gone: list[int] = []

    def encoded(self) -> str:
        """A key for the mapping that ``admission`` writes to."""
        return PREFIX + msgspec.json.encode(self).decode()


_DECODER = msgspec.json.Decoder(BatchChange)


def decoded_change(stages: Any) -> BatchChange | None:
    """What a mapping of stages carries; None where that is nothing of ours, or not ours to read."""
    if not isinstance(stages, dict):
        return None
    for key in reversed(stages):
        if isinstance(key, str) and key.startswith(PREFIX):
            try:
                return _DECODER.decode(key.removeprefix(PREFIX))
            except (msgspec.MsgspecError, UnicodeError):
                return None
    return None


class Decided(NamedTuple):
    """A step's change and, in the order of its ``takes``, whose they are: drafts are emitted as their results say."""

    change: BatchChange
    takers: Sequence[str] = ()

    def with_results(self, results: Any) -> BatchChange:
        """The change, once the results of its step are there."""
        takes = self.change.takes
        if not any(emitted == _DRAFTED for _, _, emitted in takes):
            return self.change
        tokens, places = results.sampled_token_ids, results.req_id_to_index
        said = [
            (number, computed, len(tokens[places[name]]) if emitted == _DRAFTED else emitted)
            for name, (number, computed, emitted) in zip(self.takers, takes, strict=True)
        ]
        return msgspec.structs.replace(self.change, takes=said)


class BatchTeller:
    """Makes the change of each step of a scheduler; whatever it raises, its caller ends it."""

    def __init__(self) -> None:
        self._step = 0
        self._whole = True
        self._next = count(1)
        self._numbers: dict[str, int] = {}
        self._named: set[str] = set()
        self._batch: dict[str, int] = {}
        self._chunks: set[str] = set()

    def not_told(self) -> None:
        """A step's change did not reach anybody: the next one is whole."""
        self._whole = True

    def decided(self, scheduler: Any, output: Any) -> Decided:
        """What ``schedule()`` made of the batch with ``output``."""
        self._step += 1
        tokens = output.num_scheduled_tokens
        gone = self._forget(getattr(output, "finished_req_ids", ()))
        drafts, evicted = output.scheduled_spec_decode_tokens, getattr(output, "preempted_req_ids", None) or ()
        whole = self._whole or self._step % _WHOLE_EVERY == 0
        plain = output.total_num_scheduled_tokens == len(tokens)
        if plain and tokens == self._batch and not (whole or drafts or evicted or self._chunks):
            return Decided(BatchChange(self._step, gone=gone))
        if whole:  # whoever listens may know nothing of what was told before
            self._named.clear()
        chunks = {request.request_id for request in scheduler.running if request.is_prefill_chunk}
        before = {} if whole else self._batch
        odd = chunks | self._chunks | drafts.keys()
        takers = [name for name, computed in tokens.items() if before.get(name) != computed or name in odd]
        left = [self._numbers[name] for name in before if name not in tokens and name in self._numbers]
        names = self._names([*takers, *evicted])
        takes = [
            (self._numbers[name], tokens[name], _DRAFTED if name in drafts else int(name not in chunks))
            for name in takers
        ]
        change = BatchChange(self._step, whole, names, takes, left, [self._numbers[name] for name in evicted], gone)
        self._batch, self._chunks, self._whole = dict(tokens), chunks, False
        return Decided(change, takers)

    def _names(self, ids: Iterable[str]) -> dict[int, str]:
        """Numbers for those who have none, and the ids that were not told with theirs."""
        found = {}
        for name in ids:
            if name not in self._numbers:
                self._numbers[name] = next(self._next)
            if name not in self._named and len(name) <= _LONGEST_ID:
                found[self._numbers[name]] = readable(name)
                self._named.add(name)
        return found

    def _forget(self, ended: Iterable[str]) -> list[int]:
        self._named.difference_update(ended)
        return [self._numbers.pop(name) for name in ended if name in self._numbers]
