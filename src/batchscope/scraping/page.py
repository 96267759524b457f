"""From the text of a ``/metrics`` page to the samples that somebody knows, in bounded memory.

prometheus_client's parser reads a sample line, about 20 us each; so lines of unknown names, most of a page, never
reach it, and those that do come one by one: a line's number is known when it is wrong. The names are taken as they
stand in the text (the library would add ``_total`` to a counter's).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from batchscope.scraping.fetch import ScrapeError, ScrapeLimits
from batchscope.text import quoted

MAX_UNKNOWN = 5_000
"""Unknown names that are kept; the rest are left out of the list."""
_WORD = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_FAMILY = re.compile(_WORD)
_NAME = re.compile(rf"\s*({_WORD})[\s{{]")
_UTF8_NAME = re.compile(r'\{"(?:[^"\\]|\\.)*"\s*[,}]')
_BEGUN = re.compile(rf"\s*(#|{_WORD}(\{{|\s+[-+.\dNI]|$))")
"""How a first line begins that was cut off; all else that ends without a line's end is no metrics page at all."""
_LONGEST_NAME = 200
_SHOWN = 120


class Sample(NamedTuple):
    """One line of the page."""

    name: str
    labels: Mapping[str, str]
    value: float


class Page(NamedTuple):
    """A page: the known samples, the families that it announces, and the names of its other samples."""

    samples: list[Sample]
    families: frozenset[str]
    unknown: frozenset[str]


class _BadLineError(ValueError):
    """The line at hand is not Prometheus text, or too much of it."""


class PageReader:
    """Reads a page that comes in pieces; samples only of names that ``known`` says are read.

    ScrapeError, naming ``origin`` and the line, for what is not Prometheus text, or more of it than ``limits``.
    """

    def __init__(self, known: Callable[[str], bool], limits: ScrapeLimits, origin: str = "the page") -> None:
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  (loaded when used)

        self._parse = text_string_to_metric_families
        self._known, self._limits, self._origin = known, limits, origin
        self._rest = b""
        self._number = 0
        self._labels = 0
        self._seen_something = False
        self._samples: list[Sample] = []
        self._families: set[str] = set()
        self._unknown: set[str] = set()

    def take(self, piece: bytes) -> None:
        """The next bytes of the page."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        with self._located():
            for line in lines:
                self._begin(line)
                self._add(line)
            self._begin(self._rest)
            self._number -= 1  # it goes on with the next piece

    def page(self) -> Page:
        """The page, which ends here: one that was cut off never yields half a number."""
        with self._located():
            empty = not self._seen_something and not self._families and not self._unknown
            if self._rest.strip():
                self._number += 1
                if empty and not _BEGUN.match(line := _decoded(self._rest)):
                    raise _BadLineError(f"not Prometheus text: {_shown(line)}{_advice(line)}")
                raise _BadLineError("ends in the middle: the page was cut short")
            if empty:
                raise _BadLineError("the page is empty: expected Prometheus text")
        return Page(self._samples, frozenset(self._families), frozenset(self._unknown))

    @contextmanager
    def _located(self) -> Iterator[None]:
        try:
            yield
        except _BadLineError as error:
            raise ScrapeError(f"{self._origin}: line {self._number:,}: {error}") from None

    def _begin(self, line: bytes) -> None:
        self._number += 1
        if len(line) > self._limits.max_line_bytes:
            start = line[:_SHOWN].decode(errors="replace")
            raise _BadLineError(f"longer than {self._limits.max_line_bytes:,} bytes: {_shown(start)}{_advice(start)}")

    def _add(self, raw: bytes) -> None:
        if self._number > self._limits.max_lines:
            raise _BadLineError(f"more than {self._limits.max_lines:,} lines: expected an engine's metrics")
        line = _decoded(raw)
        if not line.strip():
            return
        if line.lstrip().startswith("#"):
            self._comment(line)
            return
        found = _NAME.match(line)
        if found is None and not _UTF8_NAME.match(line):  # UTF-8 names are quoted; no engine has one
            raise _BadLineError(f"not Prometheus text: {_shown(line)}{_advice(line)}")
        self._seen_something = True
        if found is None:
            return
        name = found[1]
        if self._known(name):
            self._sample(name, line)
        else:
            self._note(name)

    def _comment(self, line: str) -> None:
        parts = line.split(None, 3)
        if len(parts) == 4 and parts[:2] == ["#", "TYPE"] and _FAMILY.fullmatch(parts[2]):
            self._note(parts[2], announced=True)

    def _note(self, name: str, *, announced: bool = False) -> None:
        names = self._families if announced else self._unknown
        if len(names) < MAX_UNKNOWN:
            names.add(name[:_LONGEST_NAME])

    def _sample(self, name: str, line: str) -> None:
        if len(self._samples) >= self._limits.max_samples:
            raise _BadLineError(f"more than {self._limits.max_samples:,} samples: expected an engine's metrics")
        self._labels += line.count('="')
        if self._labels > self._limits.max_labels:
            raise _BadLineError(f"more than {self._limits.max_labels:,} labels: expected an engine's metrics")
        try:
            (family,) = self._parse(line)
            (sample,) = family.samples
            value = _number(sample.value)
        except (ValueError, LookupError):
            raise _BadLineError(f"not a sample: {_shown(line)}") from None
        self._samples.append(Sample(name, sample.labels, value))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _BadLineError(f"not UTF-8 at byte {error.start + 1}: {_shown(raw.decode(errors='replace'))}") from None


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # the parser gives whole numbers as int, however long
        return float("inf")


def _shown(line: str) -> str:
    return quoted(line, _SHOWN)


def _advice(line: str) -> str:
    if line.lstrip().startswith(("[", "{")):
        return " (JSON: expected /metrics; trtllm-serve has its Prometheus page at /prometheus/metrics)"
    return " (a web page: expected /metrics)" if line.lstrip().startswith("<") else ""
