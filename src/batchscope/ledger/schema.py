"""The tables of a run: which columns they have, of which type, in which unit, and what they mean.

This is the one place: what is written, read and documented follows from it. A reader needs no batchscope: each column's
unit and meaning stand in its metadata. ``null`` is: not measured; or, in a column that ``follows`` from others, that it
is to the bit what its meaning says (``batchscope.ledger.derived`` fills it in).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

import pyarrow as pa

from batchscope.rows import IterationColumn, RequestColumn, RowKind, Trait

VERSION: Final = 1
SCHEMA: Final = f"batchscope.ledger/{VERSION}"


class Table(StrEnum):
    """The tables of a run; its files are named after them."""

    REQUESTS = "requests"
    ITERATIONS = "iterations"
    SPANS = "spans"
    EVENTS = "events"


class Level(StrEnum):
    """How much is recorded: ``lean`` leaves the spans out, and with them the instant of each token."""

    DEFAULT = "default"
    LEAN = "lean"

    @property
    def tables(self) -> tuple[Table, ...]:
        """What is written at this level."""
        return tuple(table for table in Table if self is Level.DEFAULT or table is not Table.SPANS)


class Column(NamedTuple):
    """A column of a table. ``follows``: from which others where it is null; nothing where null is not measured."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str
    follows: str = ""

    @property
    def field(self) -> pa.Field:
        """It in an Arrow schema."""
        described = {"unit": self.unit, "meaning": self.meaning, "null": self.follows or "not measured"}
        return pa.field(self.name, self.type, metadata=described)


_S, _TOKENS, _REQUESTS, _NUMBER = "s", "tokens", "requests", "number"
_INSTANT = "s of the collector's clock"
_FLOAT, _INT, _TEXT = pa.float64(), pa.int64(), pa.string()
SEGMENT = Column("segment", pa.int32(), _NUMBER, "position in the run's headers of the one that holds for this row")

_REQUEST_MEANINGS: dict[RequestColumn, tuple[str, str, str]] = {
    RequestColumn.AT: (_INSTANT, "when it counts as finished", "finished_at"),
    RequestColumn.ARRIVED_AT: (_INSTANT, "it arrived at the engine", ""),
    RequestColumn.FIRST_SCHEDULED_AT: (_INSTANT, "it was scheduled for the first time", ""),
    RequestColumn.FIRST_TOKEN_AT: (_INSTANT, "its first token was emitted", ""),
    RequestColumn.LAST_TOKEN_AT: (_INSTANT, "its last token was emitted", ""),
    RequestColumn.FINISHED_AT: (_INSTANT, "it left the scheduler", ""),
    RequestColumn.QUEUE_TIME: (_S, "from its arrival until first scheduled", "first_scheduled_at - arrived_at"),
    RequestColumn.PREFILL_TIME: (_S, "from first scheduled to its first token", "first_token_at - first_scheduled_at"),
    RequestColumn.TIME_TO_FIRST_TOKEN: (_S, "from its arrival to its first token", "first_token_at - arrived_at"),
    RequestColumn.TIME_PER_OUTPUT_TOKEN: (
        _S, "decode time over the tokens after the first", "decode_time / (tokens_generated - 1); with < 2 tokens none",
    ),
    RequestColumn.DECODE_TIME: (_S, "from its first to its last token", "last_token_at - first_token_at"),
    RequestColumn.PREEMPTED_TIME: (_S, "between being evicted and scheduled again, summed", ""),
    RequestColumn.PROCESSING_TIME: (_S, "from first scheduled to its end", "finished_at - first_scheduled_at"),
    RequestColumn.TOTAL_TIME: (
        _S, "from its arrival to its end", "finished_at - arrived_at, else queue_time (0 if null) + processing_time",
    ),
    RequestColumn.MAX_EMISSION_GAP: (_S, "the longest time between two emissions of tokens", ""),
    RequestColumn.TOKENS_GENERATED: (_TOKENS, "output tokens", ""),
    RequestColumn.PROMPT_TOKENS: (_TOKENS, "of its prompt", ""),
    RequestColumn.CACHED_TOKENS: (_TOKENS, "of its prompt that a prefix cache supplied", ""),
    RequestColumn.RECOMPUTED_TOKENS: (_TOKENS, "computed again after preemptions", ""),
    RequestColumn.PREEMPTIONS: (_NUMBER, "how often it was evicted from the batch", ""),
}  # fmt: skip

_ITERATION_MEANINGS: dict[IterationColumn, tuple[str, str, str]] = {
    IterationColumn.AT: (_INSTANT, "when it was recorded", "finished_at"),
    IterationColumn.STARTED_AT: (_INSTANT, "it began", ""),
    IterationColumn.FINISHED_AT: (_INSTANT, "it ended, its tokens were there", ""),
    IterationColumn.ITERATION_NUMBER: (_NUMBER, "the engine's own; it may come twice", ""),
    IterationColumn.REQUEST_COUNT: (_REQUESTS, "in its batch", ""),
    IterationColumn.TOKENS_GENERATED: (_TOKENS, "emitted at its end", ""),
    IterationColumn.REQUESTS_COMPLETED: (_REQUESTS, "that ended with it", ""),
    IterationColumn.PROCESSING_TIME: (_S, "how long it took", "finished_at - started_at"),
    IterationColumn.RUNNING_REQUESTS: (_REQUESTS, "that hold a place, after the batch was formed", ""),
    IterationColumn.WAITING_REQUESTS: (_REQUESTS, "that could run and do not, the preempted ones included", ""),
    IterationColumn.DEFERRED_REQUESTS: (_REQUESTS, "held back by something else", ""),
    IterationColumn.PREFILL_REQUESTS: (_REQUESTS, "in the batch that prefill", ""),
    IterationColumn.SCHEDULED_TOKENS: (_TOKENS, "computed in it", ""),
    IterationColumn.PREFILL_TOKENS: (_TOKENS, "of prompts, recomputed ones included", ""),
    IterationColumn.DECODE_TOKENS: (_TOKENS, "scheduled less prefilled", ""),
    IterationColumn.UNSCHEDULED_PREFILL_TOKENS: (_TOKENS, "of running requests, cut off by the token budget", ""),
    IterationColumn.CACHED_PROMPT_TOKENS: (_TOKENS, "that a prefix cache supplied", ""),
    IterationColumn.RECOMPUTED_TOKENS: (_TOKENS, "computed again after preemptions", ""),
    IterationColumn.DECODE_CONTEXT_TOKENS: (_TOKENS, "in the KV cache of those that decode", ""),
    IterationColumn.DRAFT_TOKENS: (_TOKENS, "proposed by speculation", ""),
    IterationColumn.ACCEPTED_TOKENS: (_TOKENS, "of the proposed ones that were kept", ""),
    IterationColumn.KV_CACHE_USAGE: ("1", "blocks held / usable blocks", ""),
    IterationColumn.PREEMPTIONS: (_NUMBER, "requests it evicted", ""),
    IterationColumn.SCHEDULE_TIME: (_S, "spent on scheduling", ""),
    IterationColumn.FORWARD_TIME: (_S, "spent in the model", ""),
    IterationColumn.MEMORY_BYTES_USED: ("B", "memory in use", ""),
    IterationColumn.HEAD_TOKENS: (_TOKENS, "that the first waiting request needs room for", ""),
    IterationColumn.STANDING_REQUESTS: (_REQUESTS, "that hold a place and are in no batch", ""),
    IterationColumn.UTILIZATION: ("1", "request_count / places", "request_count / the header's places of one batch"),
    IterationColumn.TOKEN_UTILIZATION: (
        "1", "scheduled_tokens / budget", "scheduled_tokens / the header's max_scheduled_tokens",
    ),
    IterationColumn.BUSY_TIME: (_S, "its time that no iteration of its rank before it had", "processing_time"),
}  # fmt: skip

MEASURED = {RowKind.REQUEST: tuple(_REQUEST_MEANINGS), RowKind.ITERATION: tuple(_ITERATION_MEANINGS)}
"""The columns of rows that are numbers and may be missing, in the order of the tables."""


def _type(column: RequestColumn | IterationColumn, unit: str) -> pa.DataType:
    whole = column.traits & (Trait.COUNT | Trait.BYTES) if isinstance(column, IterationColumn) else False
    return _INT if whole or unit in {_TOKENS, _REQUESTS, _NUMBER, "B"} else _FLOAT


def _measured(
    meanings: dict[RequestColumn, tuple[str, str, str]] | dict[IterationColumn, tuple[str, str, str]],
) -> Iterator[Column]:
    for column, (unit, meaning, follows) in meanings.items():
        yield Column(column.name.lower(), _type(column, unit), unit, meaning, follows)


COLUMNS: dict[Table, tuple[Column, ...]] = {
    Table.REQUESTS: (
        Column("request", _INT, _NUMBER, "the request's own in this run; spans have the same"),
        Column("request_id", _TEXT, "", "the engine's id, cut to 256 characters; it may come twice"),
        SEGMENT,
        Column("request_class", _TEXT, "", "the class whose targets hold for it"),
        Column("reason", _TEXT, "", "why it ended: a value of CompletionReason"),
        *_measured(_REQUEST_MEANINGS),
    ),
    Table.ITERATIONS: (
        Column("iteration", _INT, _NUMBER, "the iteration's own in this run; those of a rank follow each other"),
        SEGMENT,
        Column("rank", pa.int32(), _NUMBER, "of the engine"),
        *_measured(_ITERATION_MEANINGS),
        Column("limited_by", _TEXT, "", "why the batch was not fuller: a value of BatchLimiter"),
        Column("limiter_reported", pa.bool_(), "", "whether the engine said so; else it is inferred"),
    ),
    Table.SPANS: (
        Column("request", _INT, _NUMBER, "which request: as in requests; one that never finished has no row there"),
        Column("first_iteration", _INT, _NUMBER, "the first iteration that it took part in: as in iterations"),
        Column("iterations", _INT, _NUMBER, "how many iterations in a row"),
        Column("tokens", _INT, _TOKENS, "emitted at the end of each; of several iterations 1"),
        Column("scheduled_tokens", _INT, _TOKENS, "computed in the first of them; 1 in each further one"),
        Column("evicted", pa.bool_(), "", "it took no part: the iteration evicted it"),
    ),
    Table.EVENTS: (
        Column("at", _FLOAT, _INSTANT, "when; of other settings: when that was heard, an interval later at most"),
        SEGMENT,
        Column("kind", _TEXT, "", "reset, limits, engine, definitions, error or gap"),
        Column("name", _TEXT, "", "of an error: its name; of a gap: the table that lacks rows"),
        Column("count", _INT, _NUMBER, "how many of it: errors, rows"),
        Column("detail", _TEXT, "", "more, as JSON"),
    ),
}  # fmt: skip

SCHEMAS: dict[Table, pa.Schema] = {
    table: pa.schema([column.field for column in columns], metadata={"schema": SCHEMA, "table": table.value})
    for table, columns in COLUMNS.items()
}
TOKENS = pa.schema([
    Column("request", _INT, _NUMBER, "the request's own in this run").field,
    Column("at", _FLOAT, _INSTANT, "its token was emitted; null: that iteration was rejected").field,
])  # fmt: skip
"""What ``Run.tokens`` gives: it is not stored, it follows from spans and iterations."""
