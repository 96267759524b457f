"""The ASGI application: ``/metrics``, ``/snapshot``, ``/healthz``, what is added to them, and an index of it all."""

from __future__ import annotations

import gzip
import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from batchscope.clock import Clock
from batchscope.dashboard.document import cursor_of, wanted_of
from batchscope.dashboard.fleet import known_of
from batchscope.dashboard.recorder import Recorder
from batchscope.errors import BatchscopeError
from batchscope.exporters.prometheus import Exposition
from batchscope.server.health import CLOSED, Health, ProcessSource, judge, judge_processes
from batchscope.server.hosts import AllowedHosts
from batchscope.server.negotiation import accepts_gzip, choose_format
from batchscope.server.page import Paged
from batchscope.server.shared import SharedWork
from batchscope.statistics.cumulative import StateSource
from batchscope.text import quoted
from batchscope.tokens import allows
from batchscope.version import __version__

_PRESENT_SECONDS = 0.9
"""For so long what one viewer of the page was told of the present is told to others, who ask once a second each."""
_LONGEST_INSTANCE = 100
_SMALLEST_COMPRESSED = 500
_COMPRESSION = 4
_LARGE, _COMPRESSION_OF_LARGE = 200_000, 6
"""A whole history: asked for once."""
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_JSON = "application/json"


class Endpoints:
    """Our own answers, their docstrings for the index.

    Reading and rendering happen in threads, once for all who ask at the same time.
    """

    def __init__(
        self,
        source: StateSource,
        exposition: Exposition,
        *,
        stall_seconds: float,
        max_age: float,
        clock: Clock,
        recorder: Recorder | None = None,
    ) -> None:
        self._source = source
        self._exposition = exposition
        self._stall_seconds = stall_seconds
        self._shared = SharedWork(max_age, clock)
        self._present = SharedWork(max(max_age, _PRESENT_SECONDS), clock)
        self._recorder = recorder
        self._numbers = itertools.count()

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        answers = {"/metrics": self.metrics, "/snapshot": self.snapshot, "/healthz": self.healthz}
        if self._recorder is not None:
            answers |= {"/history": self.history}
            if self._recorder.engines is not None:
                answers |= {"/fleet": self.fleet}
        return [Route(path, answer, methods=["GET"]) for path, answer in answers.items()]

    async def metrics(self, request: Request) -> Response:
        """Prometheus: text, OpenMetrics or protobuf with native histograms, by Accept; ?name[]= to choose"""
        form = choose_format(", ".join(request.headers.getlist("accept")))
        names = frozenset(request.query_params.getlist("name[]"))

        def render() -> bytes:
            return self._exposition.render(self._source.read_totals(), form, names or None)

        return await self._body(request, ("metrics", form, names) if names else ("metrics", form), render, form.value)

    async def snapshot(self, request: Request) -> Response:
        """Everything as one JSON document; ?histograms=1 for one that can be merged"""
        histograms = request.query_params.get("histograms", "0").lower() in {"1", "true", "yes"}

        def render() -> bytes:
            return self._source.get_snapshot().to_json(histograms=histograms)

        return await self._body(request, ("snapshot", histograms), render, _JSON)

    async def history(self, request: Request) -> Response:
        """What the page shows, in columns; ?since=CURSOR: what is new; ?seconds=10&last=7200; ?engine=ID of /fleet"""
        recorder, engine = self._recorder, request.query_params.get("engine", "")[:_LONGEST_INSTANCE]
        assert recorder is not None  # noqa: S101  (else there is no such route)
        if self._source.closed:
            return _json({"error": CLOSED.reason}, HTTPStatus.SERVICE_UNAVAILABLE)
        recorder.start()
        asked = request.query_params
        cursor, wanted = cursor_of(asked.get("since", "")), wanted_of(asked.get("seconds", ""), asked.get("last", ""))
        try:
            number, told = await self._present.get(
                ("present", engine), lambda: (next(self._numbers), recorder.present(engine))
            )
            key = ("history", cursor, wanted, engine, number)
            return await self._body(
                request, key, lambda: recorder.answer(told, cursor, wanted, engine), _JSON, self._present
            )
        except KeyError:
            reason = f"there is no process {quoted(engine)}: expected an id of /fleet"
            return _json({"error": reason}, HTTPStatus.NOT_FOUND)

    async def fleet(self, request: Request) -> Response:
        """Each process of several, and who is worst; ?since=CURSOR for what is new"""
        recorder, known = self._recorder, known_of(request.query_params.get("since", ""))
        assert recorder is not None  # noqa: S101  (else there is no such route)
        recorder.start()
        return await self._body(request, ("fleet", known), lambda: recorder.fleet(known), _JSON)

    async def healthz(self, _request: Request) -> Response:
        """200, or 503 with the reason"""
        if self._source.closed:
            return _json(CLOSED, HTTPStatus.SERVICE_UNAVAILABLE)
        health: Health = await self._shared.get("health", self._health)
        return _json(health, HTTPStatus.OK if health.healthy else HTTPStatus.SERVICE_UNAVAILABLE)

    def _health(self) -> Health:
        gauges = self._source.read_totals().gauges
        if isinstance(self._source, ProcessSource):
            return judge_processes(gauges, self._source.processes(), self._stall_seconds)
        return judge(gauges, self._stall_seconds)

    async def _body(
        self,
        request: Request,
        key: tuple[Any, ...],
        render: Callable[[], bytes],
        kind: str,
        shared: SharedWork | None = None,
    ) -> Response:
        work = shared or self._shared
        if self._source.closed:
            return _json({"error": CLOSED.reason}, HTTPStatus.SERVICE_UNAVAILABLE)
        headers = {**_HEADERS, "Content-Type": kind, "Vary": "Accept, Accept-Encoding, Authorization"}
        if not accepts_gzip(", ".join(request.headers.getlist("accept-encoding"))):
            return Response(await work.get(key, render), headers=headers)
        body, compressed = await work.get((*key, "gzip"), lambda: _compressed(render()))
        return Response(body, headers={**headers, "Content-Encoding": "gzip"} if compressed else headers)


class Guarded:
    """Lets only those in who know the token: whatever the path, so that nobody learns what there is."""

    def __init__(self, app: ASGIApp, token: bytes | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or allows(self._token, dict(scope["headers"]).get(b"authorization")):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refused = _json({"error": "a bearer token is needed"}, HTTPStatus.UNAUTHORIZED)
            refused.headers["WWW-Authenticate"] = 'Bearer realm="batchscope"'
            await refused(scope, receive, send)


class HostChecked:
    """Answers 421 to who asks under a name that is not ours."""

    def __init__(self, app: ASGIApp, allowed: AllowedHosts) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope.get("headers", ())).get(b"host")
        name = None if host is None else host.decode("latin-1")
        if scope["type"] != "http" or self._allowed.allows(name):
            await self._app(scope, receive, send)
            return
        reason = (
            f"the name {quoted(name)} is not one of this endpoint's: expected localhost, its address, or a name of"
            " allowed_hosts=[...] (batchscope serve --allowed-host NAME, BATCHSCOPE_ALLOWED_HOSTS)"
        )
        await _json({"error": reason}, HTTPStatus.MISDIRECTED_REQUEST)(scope, receive, send)


class Index:
    """What there is: the answer to ``/``, and to whoever asks for something else."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._endpoints = {
            route.path: (inspect.getdoc(route.endpoint) or "").partition("\n")[0]
            for route in routes
            if isinstance(route, Route)
        }

    async def listed(self, _request: Request) -> Response:
        """Each path, and the first line of what its endpoint says of itself."""
        return _json({"batchscope": __version__, "endpoints": self._endpoints})

    async def refused(self, _request: Request, error: HTTPException) -> Response:
        """404 and 405, in JSON."""
        reason = f"{error.status_code} {error.detail}: expected GET or HEAD of {', '.join(self._endpoints)}"
        response = _json({"error": reason}, error.status_code)
        response.headers.update(error.headers or {})
        return response


def make_app(routes: Sequence[BaseRoute], token: bytes | None, *, page: bool) -> ASGIApp:
    """The application that answers ``routes``, the first that fits, to who knows the token; ``page`` to browsers."""
    index = Index(routes)
    handlers: dict[Any, Any] = {HTTPException: index.refused, BatchscopeError: _unreadable, Exception: _failed}
    app = Starlette(routes=[Route("/", index.listed, methods=["GET"]), *routes], exception_handlers=handlers)
    app.router.redirect_slashes = False
    guarded = Guarded(app, token)
    return Paged(guarded) if page else guarded


async def _unreadable(_request: Request, error: Exception) -> Response:
    """The source cannot be read now (a directory without snapshots, say)."""
    return _json({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)


async def _failed(_request: Request, error: Exception) -> Response:
    """A defect; whoever runs the server logs its traceback."""
    return _json({"error": f"internal error: {type(error).__name__}"}, HTTPStatus.INTERNAL_SERVER_ERROR)


def _json(document: Any, status: int = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(document) + b"\n", status, {**_HEADERS, "Content-Type": _JSON})


def _compressed(body: bytes) -> tuple[bytes, bool]:
    """(body, whether it is compressed): a small one would only grow."""
    if len(body) < _SMALLEST_COMPRESSED:
        return body, False
    return gzip.compress(body, _COMPRESSION if len(body) < _LARGE else _COMPRESSION_OF_LARGE, mtime=0), True
