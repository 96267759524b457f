"""Writes docs/ledger.md from the schema: ``python docs/generate_ledger.py``. A test asserts that it is current."""
# ruff: noqa: INP001, E501, S608  (a script beside the pages; tables have long lines; its SQL is text of the page)

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from batchscope.ledger.schema import COLUMNS, SCHEMA, Column, Table

PAGE = Path(__file__).with_name("ledger.md")

HEAD = f"""# The ledger: the files of a recorded run

This page is generated from `src/batchscope/ledger/schema.py` by `python docs/generate_ledger.py`: do not edit it. How a run is
recorded and read is in [how-to/record-a-run.md](how-to/record-a-run.md); what the terms mean is in the [glossary](glossary.md).
The schema is `{SCHEMA}`; a reader refuses another one and says so.

## A folder a run

| file | what it is |
| --- | --- |
| `run.json` | of which engine, limits and classes its rows are (`headers`, one a segment), `state`, rows by table, figures at a glance |
| `requests-000001.parquet`, ... | a table's part: ten minutes, or what 64 MiB of stream became |
| `requests-000002.arrows` | the part that is being written: an Arrow IPC stream, a batch a write; a killed process leaves it |
| `prefixes.parquet` | where somebody knows it (an import): which prompts begin alike; `request`, and the names of its prompt's full `blocks`, of `block_tokens` tokens each (in the file's metadata); equal names are an equal beginning |
| `.writing` | the writer's lock (`flock`): who holds it lives |
| `.spare`, `.*.tmp` | room that a full disk has for saying so, and what is not whole yet; of a killed process the next one that records to the same root removes them |

A file is renamed to its name when it is whole, so a `.parquet` is never torn. Where a part is there in both forms, the Parquet
counts. Files of other names are nobody's business.

`state` is `recording`, `finished`, or `stopped` (nothing more could be written; `stopped_by` says why). A run that says `recording`
and whose lock nobody holds was **interrupted**: what came after its last write is missing, `interval` seconds at most.

**Nothing is missing silently.** Each batch of a stream has, in its metadata (`batchscope`), the number of its write, the instant, and
how many rows of each table the run has with it; Parquet keeps the last one of a part (`batchscope.mark`). So a table that lacks
rows is found from any other. `missed` counts rows for which there was no room or no disk, to the end of the process where a run was
`stopped`; where it went on, an event `gap` stands where they were.
`left_out` counts rows of other kinds (batch records, gaps between tokens): where a `RequestTracker` recorded them they follow from
these tables.

A **segment** is what one header holds for: `reset()`, other limits, another engine begin the next. `headers[segment]` has the limits,
the engine, the labels, the classes' targets and the wall clock: `anchor_instant` of the collector's clock was `anchor_time` (UTC).
Where it says `simulated`, that clock was a simulation's, of no day: only seconds from the start mean something.
`configuration` has the engine's resolved settings where a plug-in knows them: numbers, switches, a few names; never a path, an
address, a prompt or a secret.

## Columns that follow from others

A number that follows to the bit from other columns of its row is not stored: it is null. The tables below say from which. So
null means "as it says there", and where one of those is null, too, "not measured". `Run.requests()` and `Run.iterations()` fill
it in; in SQL:

```sql
SELECT request_id, coalesce(total_time, finished_at - arrived_at) AS total_time,
       coalesce(time_to_first_token, first_token_at - arrived_at) AS time_to_first_token
FROM 'runs/20261128T180000Z-1a2b3c4d/requests-*.parquet'
WHERE reason NOT IN ('timeout', 'error', 'rejected', 'cancelled')
```

## Every token's instant

A span is a request in one or several iterations in a row; it emits `tokens` at the end of each. With the iterations' `finished_at`
the instant of every token follows (`Run.tokens()`):

```sql
SELECT s.request, i.finished_at AS at, s.tokens
FROM 'spans-*.parquet' s JOIN 'iterations-*.parquet' i
  ON i.iteration BETWEEN s.first_iteration AND s.first_iteration + s.iterations - 1
WHERE s.tokens > 0
```

A request that decodes in every iteration is one span a part. A request in `spans` without a row in `requests` had not finished. An
iteration without a row was rejected after its tokens were counted: their instants are not known. Level `lean` has no spans.
"""


def page() -> str:
    """All of it."""
    return "\n".join([HEAD, *(section(table) for table in Table)])


def section(table: Table) -> str:
    """A table's columns."""
    lines = [f"## {table.value}\n", "| column | type | unit | what it is | null |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *rows(COLUMNS[table])]) + "\n"


def rows(columns: Iterable[Column]) -> Iterable[str]:
    """A line a column."""
    for column in columns:
        null = f"= `{column.follows}`" if column.follows else "not measured"
        yield f"| `{column.name}` | {column.type} | {column.unit or '-'} | {column.meaning} | {null} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
