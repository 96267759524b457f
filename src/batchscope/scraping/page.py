"""From the text of a ``/metrics`` page to the samples that somebody knows, in bounded memory.

prometheus_client's parser reads a sample line, about 20 us each; so lines of unknown names, most of a page, never
reach it, and those that do come one by one: a line's number is known when it is wrong. The names are taken as they
stand in the text (the library would add ``_total`` to a counter's).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from batchscope.scraping.fetch import ScrapeError, ScrapeLimits
from batchscope.text import quoted

MAX_UNKNOWN = 5_000
"""Unknown names that are kept; the rest are left out of the list."""
_WORD = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_FAMILY = re.compile(_WORD)
_NAME = re.compile(rf"\s*({_WORD})[\s{{]")
_UTF8_NAME = re.compile(r'\{"(?:[^"\\]|\\.)*"\s*[,}]')
_LONGEST_NAME = 200
_SHOWN = 120


class Sample(NamedTuple):
    """One line of the page."""

    name: str
    labels: Mapping[str, str]
    value: float


class Exposition(NamedTuple):
    """A page: the known samples, the families that it announces, and the names of its other samples."""

    samples: list[Sample]
    families: frozenset[str]
    unknown: frozenset[str]


def read_exposition(
    pieces: Iterable[bytes],
    known: Callable[[str], bool],
    limits: ScrapeLimits,
    *,
    origin: str = "the page",
    check_time: Callable[[], object] = lambda: None,
) -> Exposition:
    """The page in ``pieces``; samples only of names that ``known`` says are read.

    ScrapeError, naming ``origin`` and the line, for what is not Prometheus text, or more of it than ``limits``.
    ``check_time`` is called a line and may raise ``TimeoutError``.
    """
    page = _Page(known, limits)
    number = 0
    try:
        for number, line in enumerate(_lines(pieces, limits), start=1):  # noqa: B007  (the message needs it)
            check_time()
            page.add(line)
        page.finish()
    except TimeoutError:
        raise ScrapeError(f"{origin}: no complete answer within {limits.timeout_seconds:g} s") from None
    except _BadLineError as error:
        raise ScrapeError(f"{origin}: line {max(number, error.line):,}: {error}") from None
    return Exposition(page.samples, frozenset(page.families), frozenset(page.unknown))


class _BadLineError(ValueError):
    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def _lines(pieces: Iterable[bytes], limits: ScrapeLimits) -> Iterator[bytes]:
    """Complete lines; one that does not end is an error, so a page cut off never yields half a number."""
    rest, count = b"", 0
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for number, line in enumerate((*lines, rest), start=count + 1):
            if len(line) > limits.max_line_bytes:
                start = line[:_SHOWN].decode(errors="replace")
                message = f"longer than {limits.max_line_bytes:,} bytes: {_shown(start)}{_advice(start)}"
                raise _BadLineError(message, number)
        count += len(lines)
        if count > limits.max_lines:
            raise _BadLineError(f"more than {limits.max_lines:,} lines: expected an engine's metrics", count)
        yield from lines
    if rest.strip():
        raise _BadLineError("ends in the middle: the page was cut short", count + 1)


class _Page:
    """What was read so far."""

    def __init__(self, known: Callable[[str], bool], limits: ScrapeLimits) -> None:
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  (loaded when used)

        self._parse = text_string_to_metric_families
        self._known = known
        self._limits = limits
        self._labels = 0
        self._seen_something = False
        self.samples: list[Sample] = []
        self.families: set[str] = set()
        self.unknown: set[str] = set()

    def add(self, raw: bytes) -> None:
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

    def finish(self) -> None:
        if not self._seen_something and not self.families and not self.unknown:
            raise _BadLineError("the page is empty: expected Prometheus text")

    def _comment(self, line: str) -> None:
        parts = line.split(None, 3)
        if len(parts) == 4 and parts[:2] == ["#", "TYPE"] and _FAMILY.fullmatch(parts[2]):
            self._note(parts[2], announced=True)

    def _note(self, name: str, *, announced: bool = False) -> None:
        names = self.families if announced else self.unknown
        if len(names) < MAX_UNKNOWN:
            names.add(name[:_LONGEST_NAME])

    def _sample(self, name: str, line: str) -> None:
        if len(self.samples) >= self._limits.max_samples:
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
        self.samples.append(Sample(name, sample.labels, value))


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
