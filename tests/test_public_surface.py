"""What users name stays: every public name, metric, field of the snapshot and option that was there is there still.

`public_surface.txt` holds what the last release promised. `python tests/test_public_surface.py` writes it anew: after
something was added, or in the release that announces that something goes.
"""

import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import typer.main

import batchscope
from batchscope.catalog import CATALOG
from batchscope.cli.application import application

RECORDED = Path(__file__).with_name("public_surface.txt")
# Where pages and users import from beside `batchscope` itself.
MODULES = [
    "batchscope.engines.forward_pass",
    "batchscope.engines.transformers",
    "batchscope.exporters.jsonl",
    "batchscope.exporters.log",
    "batchscope.exporters.otlp",
    "batchscope.exporters.prometheus",
    "batchscope.ledger",
    "batchscope.publishing",
    "batchscope.resources",
    "batchscope.server",
    "batchscope.simulator",
    "batchscope.sinks",
    "batchscope.testing",
]


def surface() -> list[str]:
    """A line for everything that a user can name."""
    return sorted({*_python(), *_metrics(), *_fields("snapshot", batchscope.MetricsSnapshot), *_commands()})


def _python() -> Iterator[str]:
    for module in ["batchscope", *MODULES]:
        home = __import__(module, fromlist=["*"])
        for name in getattr(home, "__all__", ()) or [n for n, v in vars(home).items() if _own(n, v, module)]:
            yield f"name {module}.{name}"
            yield from _parameters(f"{module}.{name}", getattr(home, name))


def _own(name: str, value: object, module: str) -> bool:
    home = getattr(value, "__module__", "")
    return not name.startswith("_") and (home == module or home.startswith(f"{module}."))


def _parameters(path: str, value: object) -> Iterator[str]:
    if inspect.isclass(value) and issubclass(value, Enum | BaseException):
        return  # Python's own parameters, which differ by version
    if inspect.isclass(value):
        for name, member in inspect.getmembers(value, callable):
            if not name.startswith("_"):
                yield from _of_callable(f"{path}.{name}", member)
    yield from _of_callable(path, value)


def _of_callable(path: str, value: object) -> Iterator[str]:
    if not callable(value):
        return
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return
    for parameter in parameters:
        if not parameter.name.startswith("_") and parameter.name not in {"self", "args", "kwargs"}:
            yield f"parameter {path}({parameter.name})"


def _metrics() -> Iterator[str]:
    for metric in CATALOG:
        yield f"metric {metric.name} {metric.kind.name.lower()} {{{','.join(metric.labels)}}}"


def _fields(path: str, kind: type) -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        yield f"field {path}.{name}"
        for inner in [hint, *get_args(hint)]:
            if inspect.isclass(inner) and issubclass(inner, msgspec.Struct):
                yield from _fields(f"{path}.{name}", inner)


def _commands() -> Iterator[str]:
    for name, command in typer.main.get_command(application).commands.items():  # type: ignore[attr-defined]
        yield f"command {name}"
        for parameter in command.params:
            for spelling in [*parameter.opts, *parameter.secondary_opts]:
                yield f"option {name} {spelling}"


def test_nothing_that_users_can_name_has_gone():
    gone = set(RECORDED.read_text().splitlines()) - set(surface())
    assert not gone, f"gone: {sorted(gone)}; was that announced? Then write the list anew (see above)"


def test_what_was_added_is_written_down():
    added = set(surface()) - set(RECORDED.read_text().splitlines())
    assert not added, f"new: {sorted(added)}; write the list anew (see above)"


if __name__ == "__main__":
    RECORDED.write_text("\n".join(surface()) + "\n")
    sys.stdout.write(f"{len(surface())} lines\n")
