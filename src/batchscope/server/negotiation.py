"""Which format and which encoding a client gets, by its Accept and Accept-Encoding headers (RFC 9110, 12.5)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from batchscope.exporters.prometheus import Format

_PROTOBUF = "application/vnd.google.protobuf"
_FAMILY = "io.prometheus.client.metricfamily"


class _Range(NamedTuple):
    """One part of such a header: lower-case name and parameters, and how much it is wanted."""

    name: str
    parameters: dict[str, str]
    quality: float


def choose_format(accept: str) -> Format:
    """The wanted format that we have; text for everybody else, never an error.

    Protobuf is for who names it with its message and its encoding: to whom a wildcard sent it, it is noise.
    """
    best: tuple[float, float] = (0.0, math.inf)  # what is wanted with quality 0 does not beat it
    chosen = Format.TEXT
    for wanted in _ranges(accept):
        for preference, form in enumerate((Format.TEXT, Format.OPENMETRICS, Format.PROTOBUF)):
            if _fits(wanted, form) and (wanted.quality, preference) > best:
                best, chosen = (wanted.quality, preference), form
    return chosen


def prefers_html(accept: str) -> bool:
    """Whether the client is a browser: it names HTML, and does not want JSON more."""
    by_name = {wanted.name: wanted.quality for wanted in _ranges(accept)}
    html = max(by_name.get("text/html", 0.0), by_name.get("application/xhtml+xml", 0.0))
    return html > 0 and html >= by_name.get("application/json", 0.0)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the client takes gzip: named, or by ``*``, with a quality above 0."""
    by_name = {wanted.name: wanted.quality for wanted in _ranges(accept_encoding)}
    return by_name.get("gzip", by_name.get("x-gzip", by_name.get("*", 0.0))) > 0


def _fits(wanted: _Range, form: Format) -> bool:
    if form is Format.PROTOBUF:
        names = wanted.parameters.get("proto"), wanted.parameters.get("encoding")
        return wanted.name == _PROTOBUF and names == (_FAMILY, "delimited")
    if form is Format.OPENMETRICS:
        version = wanted.parameters.get("version", "1.0.0")
        return wanted.name == "application/openmetrics-text" and version == "1.0.0"
    return wanted.name in {"text/plain", "text/*", "*/*"}


def _ranges(header: str) -> Iterator[_Range]:
    for part in header.split(","):
        name, *pairs = (piece.strip().lower() for piece in part.split(";"))
        parameters = {
            key.strip(): value.strip().strip('"') for key, _, value in (pair.partition("=") for pair in pairs)
        }
        if name:
            yield _Range(name, parameters, _quality(parameters.pop("q", "1")))


def _quality(text: str) -> float:
    """0..1; what is no such number counts as not wanted."""
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0
