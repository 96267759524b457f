"""One GET of a page that no server can make long, large or surprising; of many pages at once, in one event loop.

A page is read in pieces, up to a size and a time for all of it, so a drip of bytes gains nothing. Redirects are
reported, not followed, and neither proxies nor cookies are used: the numbers are of the address that was given.

The loop runs in a daemon thread of its own, whoever asks. An async program, a view in a terminal say, never waits for
the parsing of two hundred pages::

    fetcher = Fetcher(ScrapeLimits(timeout_seconds=2.0))
    answers = await asyncio.gather(*(fetcher.get(url) for url in urls), return_exceptions=True)

``RemoteSource.read_snapshot()`` and ``Watcher.next_round()`` are awaited the same way. What has no event loop calls
``wait_for(fetcher.get(url))``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from batchscope.errors import BatchscopeError, ConfigurationError
from batchscope.text import shown
from batchscope.version import __version__

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

PIECE = 65536
_OK = 200
_SHOWN = 200
_REDIRECTS = range(300, 400)
_NOT_LET_IN = {401, 403}
_TOKEN_FROM = "--token-file FILE or the variable BATCHSCOPE_TOKEN gives it"  # noqa: S105  (a hint, no token)
_HEADERS = {
    "Accept": "text/plain;version=0.0.4, text/plain;q=0.5, */*;q=0.1",
    "Accept-Encoding": "identity",
    "User-Agent": f"batchscope/{__version__}",
    "Connection": "close",
}
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


class Fetcher:
    """Reads pages within ``limits``, as many at once as are asked for; ``ScrapeError`` for one that cannot be had.

    ``token``: a bearer token, of visible ASCII characters; it is sent as a header, and no message has it. There is
    nothing to close: a connection ends with its answer, since one that an engine closes just then would look like an
    engine that is gone.
    """

    def __init__(self, limits: ScrapeLimits | None = None, token: bytes | None = None) -> None:
        import httpx  # noqa: PLC0415  (a tenth of a second, when pages are read)

        self.limits = limits or ScrapeLimits()
        self._headers = _HEADERS if token is None else _HEADERS | {"Authorization": f"Bearer {token.decode()}"}
        certificates = ssl.create_default_context()  # the system's, not certifi's
        self._transport = partial(httpx.AsyncHTTPTransport, verify=certificates, trust_env=False)

    async def get(self, url: MetricsUrl) -> bytes:
        """The page's text; it can be awaited in any event loop."""
        pieces: list[bytes] = []
        await in_background(self.read(url, pieces.append))
        return b"".join(pieces)

    def deadline(self) -> float:
        """When what begins now has to have ended, on the running loop's clock."""
        return asyncio.get_running_loop().time() + self.limits.timeout_seconds

    async def read(self, url: MetricsUrl, take: Callable[[bytes], object], deadline: float | None = None) -> None:
        """Give the page's text to ``take``, in pieces of 64 KiB at most; for ``wait_for`` and ``in_background``."""
        import httpx  # noqa: PLC0415

        request = httpx.Request("GET", url.text, headers=self._headers)
        try:
            async with (
                asyncio.timeout_at(deadline or self.deadline()),
                # Its own, closed here: a shared one keeps a connection for ever whose deadline comes as it is made.
                self._transport() as transport,
                aclosing(await transport.handle_async_request(request)) as response,
            ):
                _check(response, url, self.limits, with_token="Authorization" in self._headers)
                await self._unpack(response, url, take)
        except TimeoutError:
            raise ScrapeError(f"{url.text}: no complete answer within {self.limits.timeout_seconds:g} s") from None
        except httpx.RemoteProtocolError as error:
            raise ScrapeError(f"{url.text}: not a complete HTTP answer: {_short(error)}") from None
        except zlib.error as error:
            raise ScrapeError(f"{url.text}: the compressed answer is broken: {_short(error)}") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise ScrapeError(f"{url.text}: {_reason(error)}") from None

    async def _unpack(self, response: httpx.Response, url: MetricsUrl, take: Callable[[bytes], object]) -> None:
        """In pieces here, too: httpx unpacks what has come at once, a thousand times its size if need be."""
        decoder = _decoder(response, url)
        total = 0
        async for piece in response.aiter_raw():
            for part in _parts(piece, decoder):
                total += len(part)
                if total > self.limits.max_bytes:
                    raise _too_large(url, self.limits)
                take(part)
                await asyncio.sleep(0)  # now the other targets, and the deadline
        if decoder is not None and not decoder.eof:
            raise ScrapeError(f"{url.text}: the compressed answer was cut short")


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives, done in the loop that reads pages."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()


async def in_background(work: Coroutine[Any, Any, T]) -> T:
    """``wait_for`` for a coroutine of any event loop; cancelled with it."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, _loop()))


_loops: dict[int, asyncio.AbstractEventLoop] = {}


def _loop() -> asyncio.AbstractEventLoop:
    """The one loop of this process (a forked child has no thread that runs its parent's)."""
    loop = _loops.get(os.getpid())
    if loop is None:
        made = asyncio.new_event_loop()
        made.set_default_executor(_NameThreads())
        loop = _loops.setdefault(os.getpid(), made)
        if loop is made:
            threading.Thread(target=loop.run_forever, name="batchscope-fetch", daemon=True).start()
        else:  # another thread was quicker
            made.close()
    return loop


class _NameThreads(ThreadPoolExecutor):
    """Where the loop resolves names, which has no deadline of its own: a daemon thread for each name.

    One that hangs is asked once until it answers, and keeps no other waiting, nor the end of the process.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[Any, Future[Any]] = {}

    def submit(self, resolve: Callable[..., T], /, *question: Any, **_: Any) -> Future[T]:
        answer = self._asked.get(question)
        if answer is None:
            answer = self._asked[question] = Future()
            answer.set_running_or_notify_cancel()  # who no longer waits does not take it from the others
            threading.Thread(target=self._resolve, args=(answer, resolve, question), daemon=True).start()
        return answer

    def _resolve(self, answer: Future[T], resolve: Callable[..., T], question: Any) -> None:
        try:
            answer.set_result(resolve(*question))
        except Exception as error:  # noqa: BLE001  (for whoever asked)
            answer.set_exception(error)
        finally:
            del self._asked[question]


def _check(response: httpx.Response, url: MetricsUrl, limits: ScrapeLimits, *, with_token: bool) -> None:
    if response.status_code in _REDIRECTS:
        target = _short(response.headers.get("Location") or "nowhere")
        raise ScrapeError(f"{url.text}: redirects to {target}, which is not followed: give the address that serves it")
    if response.status_code in _NOT_LET_IN:
        wanted = "the bearer token is not taken: expected the right one" if with_token else "expected a bearer token"
        raise ScrapeError(f"{url.text}: HTTP {response.status_code}: {wanted}; {_TOKEN_FROM}")
    if response.status_code != _OK:
        raise ScrapeError(f"{url.text}: HTTP {response.status_code} {_short(response.reason_phrase)}: {url.hint}")
    if int(response.headers.get("Content-Length", 0)) > limits.max_bytes:  # h11 has read it as a number already
        raise _too_large(url, limits)


def _decoder(response: httpx.Response, url: MetricsUrl) -> Any:
    """What unpacks the answer; None where it is plain."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        return None
    if encoding not in {"gzip", "x-gzip"}:
        raise ScrapeError(f"{url.text}: Content-Encoding {_short(encoding)!r}: expected plain text or gzip")
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _parts(piece: bytes, decoder: Any) -> Iterator[bytes]:
    if decoder is None:
        yield piece
        return
    while piece and not decoder.eof:
        yield decoder.decompress(piece, PIECE)
        piece = decoder.unconsumed_tail


def _too_large(url: MetricsUrl, limits: ScrapeLimits) -> ScrapeError:
    return ScrapeError(
        f"{url.text}: the page is larger than {limits.max_bytes / 2**20:g} MiB and was cut off: "
        "expected an engine's metrics; raise the limit with --max-mib if it is one"
    )


def _reason(error: BaseException) -> str:
    """What happened at the bottom: httpx says of most troubles that all attempts failed."""
    while cause := getattr(error, "exceptions", (error.__cause__ or error.__context__,))[0]:
        error = cause
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: expected a server at this address"
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"no such host: {getattr(error, 'strerror', None) or error}"
    return _short(getattr(error, "strerror", None) or error) or type(error).__name__


def _short(value: object) -> str:
    """What a server said."""
    return shown(value, _SHOWN)
