"""One GET of a ``/metrics`` page that no server can make long, large or surprising.

A page is read in pieces, up to a size and a time for all of it: DNS aside, every wait on the socket ends at the same
deadline, so a drip of bytes gains nothing. Redirects are reported, not followed, and no proxy is used: the numbers
are of the address that was given.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import msgspec

from batchscope.errors import BatchscopeError, ConfigurationError
from batchscope.text import shown
from batchscope.version import __version__

PIECE = 65536
_OK = 200
_SHOWN = 200
_REDIRECTS = range(300, 400)
_NOT_LET_IN = {401, 403}
_TOKEN_FROM = "--token-file FILE or the variable BATCHSCOPE_TOKEN gives it"  # noqa: S105  (a hint, no token)
_WANTED = "http://HOST[:PORT] or https://HOST[:PORT], with a path where the page is not /metrics"
_HINT = (
    "expected the metrics page: llama.cpp serves it with --metrics, SGLang with --enable-metrics, "
    "trtllm-serve at /prometheus/metrics"
)


class ScrapeError(BatchscopeError):
    """A page that could not be had or not be read; the message names the URL, and the line where there is one."""


class ScrapeLimits(msgspec.Struct, frozen=True):
    """What one scrape may cost: seconds, bytes of text, lines, bytes a line, read samples and their labels."""

    timeout_seconds: float = 5.0
    max_bytes: int = 16 * 2**20
    max_lines: int = 200_000
    max_line_bytes: int = 16 * 1024
    max_samples: int = 50_000
    max_labels: int = 250_000


class MetricsUrl(NamedTuple):
    """Where a page is; ``text`` is how it is shown, ``hint`` what to say where another page answers."""

    text: str
    host: str
    port: int | None
    path: str
    secure: bool
    hint: str = _HINT


def metrics_url(text: str) -> MetricsUrl:
    """The page meant by ``text``: ``http://`` where no scheme is given, ``/metrics`` where no path is.

    ConfigurationError names what is wrong.
    """
    parts = _split(text)
    path = parts.path if parts.path not in {"", "/"} else "/metrics"
    target = f"{path}?{parts.query}" if parts.query else path
    shown = f"{parts.scheme}://{parts.netloc}{target}"
    return MetricsUrl(shown, parts.hostname or "", parts.port, target, parts.scheme == "https")


def _split(text: str) -> SplitResult:
    if not text.isascii() or any(c <= " " or c == "\x7f" for c in text):
        raise ConfigurationError("URL", text, _WANTED)
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError("URL", text, _WANTED)
    if "@" in parts.netloc:
        hidden = f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}"
        raise ConfigurationError("URL", hidden, "an address without a user name and password")
    return parts


def fetch(
    url: MetricsUrl,
    limits: ScrapeLimits,
    remaining: Callable[[], float] | None = None,
    token: bytes | None = None,
) -> Generator[bytes]:
    """The page's text in pieces of at most 64 KiB; ``ScrapeError`` where it cannot be had within ``limits``.

    ``remaining``: seconds left, for all of it; ``TimeoutError`` when none are. ``token``: a bearer token, of visible
    ASCII characters; it is sent as a header, and no message has it.
    """
    remaining = remaining or countdown(limits.timeout_seconds)
    connection = _connection(url, remaining())
    try:
        yield from _bounded(_answer(connection, url, remaining, limits, token), url, limits)
    except TimeoutError:
        raise ScrapeError(f"{url.text}: no complete answer within {limits.timeout_seconds:g} s") from None
    except http.client.HTTPException as error:
        raise ScrapeError(f"{url.text}: not a complete HTTP answer: {_short(error)}") from None
    except zlib.error as error:
        raise ScrapeError(f"{url.text}: the compressed answer is broken: {_short(error)}") from None
    except OSError as error:
        raise ScrapeError(f"{url.text}: {_reason(error)}") from None
    finally:
        connection.close()


def countdown(seconds: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], float]:
    """Tells the seconds that are left; ``TimeoutError`` when none are."""
    end = clock() + seconds

    def remaining() -> float:
        left = end - clock()
        if left <= 0:
            raise TimeoutError
        return left

    return remaining


def _connection(url: MetricsUrl, timeout: float) -> http.client.HTTPConnection:
    if url.secure:
        return http.client.HTTPSConnection(url.host, url.port, timeout=timeout, context=ssl.create_default_context())
    return http.client.HTTPConnection(url.host, url.port, timeout=timeout)


def _answer(
    connection: http.client.HTTPConnection,
    url: MetricsUrl,
    remaining: Callable[[], float],
    limits: ScrapeLimits,
    token: bytes | None,
) -> Iterator[bytes]:
    connection.connect()
    connection.sock = _TimedSocket(connection.sock, remaining)
    connection.putrequest("GET", url.path, skip_accept_encoding=True)
    connection.putheader("Accept", "text/plain;version=0.0.4, text/plain;q=0.5, */*;q=0.1")
    connection.putheader("Accept-Encoding", "identity")
    connection.putheader("User-Agent", f"batchscope/{__version__}")
    connection.putheader("Connection", "close")
    if token is not None:
        connection.putheader("Authorization", b"Bearer " + token)
    connection.endheaders()
    with connection.getresponse() as response:
        _check(response, url, limits, token)
        encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
        yield from _plain(_body(response, url), encoding, url)


def _check(response: http.client.HTTPResponse, url: MetricsUrl, limits: ScrapeLimits, token: bytes | None) -> None:
    if response.status in _REDIRECTS:
        target = _short(response.getheader("Location") or "nowhere")
        raise ScrapeError(f"{url.text}: redirects to {target}, which is not followed: give the address that serves it")
    if response.status in _NOT_LET_IN:
        wanted = "expected a bearer token" if token is None else "the bearer token is not taken: expected the right one"
        raise ScrapeError(f"{url.text}: HTTP {response.status}: {wanted}; {_TOKEN_FROM}")
    if response.status != _OK:
        raise ScrapeError(f"{url.text}: HTTP {response.status} {_short(response.reason)}: {url.hint}")
    if response.length is not None and response.length > limits.max_bytes:
        raise _too_large(url, limits)


def _body(response: http.client.HTTPResponse, url: MetricsUrl) -> Iterator[bytes]:
    expected, received = response.length, 0
    while piece := response.read1(PIECE):
        received += len(piece)
        yield piece
    if expected is not None and received < expected:
        raise ScrapeError(f"{url.text}: the answer was cut short: {received:,} of {expected:,} bytes")


def _plain(pieces: Iterator[bytes], encoding: str, url: MetricsUrl) -> Iterator[bytes]:
    if encoding == "identity":
        yield from pieces
        return
    if encoding not in {"gzip", "x-gzip"}:
        raise ScrapeError(f"{url.text}: Content-Encoding {_short(encoding)!r}: expected plain text or gzip")
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    for piece in pieces:
        compressed = piece
        while compressed and not decoder.eof:
            yield decoder.decompress(compressed, PIECE)
            compressed = decoder.unconsumed_tail
    if not decoder.eof:
        raise ScrapeError(f"{url.text}: the compressed answer was cut short")


def _bounded(pieces: Iterator[bytes], url: MetricsUrl, limits: ScrapeLimits) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > limits.max_bytes:
            raise _too_large(url, limits)
        yield piece


def _too_large(url: MetricsUrl, limits: ScrapeLimits) -> ScrapeError:
    return ScrapeError(
        f"{url.text}: the page is larger than {limits.max_bytes / 2**20:g} MiB and was cut off: "
        "expected an engine's metrics; raise the limit with --max-mib if it is one"
    )


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: expected a server at this address"
    if isinstance(error, socket.gaierror):
        return f"no such host: {error.strerror or error}"
    return _short(error.strerror or error) or type(error).__name__


def _short(value: object) -> str:
    """What a server said."""
    return shown(value, _SHOWN)


class _TimedSocket:
    """The part of a socket that ``http.client`` uses, every wait of it ending at one deadline."""

    def __init__(self, sock: socket.socket, remaining: Callable[[], float]) -> None:
        self._sock = sock
        self._remaining = remaining

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._remaining), PIECE)

    def sendall(self, data: Any) -> None:
        self._sock.settimeout(self._remaining())
        self._sock.sendall(data)

    def close(self) -> None:
        self._sock.close()


class _TimedReader(io.RawIOBase):
    """Reads what is there; holds the connection open until it is closed itself, as ``socket.makefile`` does."""

    def __init__(self, sock: socket.socket, remaining: Callable[[], float]) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self._remaining = remaining

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._remaining())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
