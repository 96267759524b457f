"""The HTTP endpoint: ``/metrics``, ``/snapshot`` and ``/healthz`` of a collector. Needs the extra ``serve``.

``make_asgi_app`` to mount it in a server that is there already, ``serve`` to run one in a thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from batchscope.checks import check_positive
from batchscope.clock import Clock
from batchscope.dashboard.recorder import Recorder
from batchscope.errors import ConfigurationError, MissingExtraError
from batchscope.exporters.prometheus import Exposition
from batchscope.exporters.prometheus.families import SERIES_BUDGET
from batchscope.server.guard import ConnectionLimits
from batchscope.server.health import STALL_SECONDS
from batchscope.server.hosts import declared_hosts
from batchscope.statistics.cumulative import StateSource
from batchscope.tokens import TOKEN_VARIABLE, find_token

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from batchscope.server.running import ServerHandle

__all__ = ["DEFAULT_PORT", "ConnectionLimits", "make_asgi_app", "serve"]

DEFAULT_PORT = 9464
"""What OpenTelemetry's Prometheus exporters listen on."""
MAX_AGE_SECONDS = 0.1
"""How old an answer may be that was made for somebody else."""

logger = logging.getLogger("batchscope.server")


def make_asgi_app(
    source: StateSource,
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    vllm_names: bool = False,
    series_budget: int = SERIES_BUDGET,
    stall_seconds: float = STALL_SECONDS,
    max_age: float = MAX_AGE_SECONDS,
    clock: Clock = time.monotonic,
    routes: Sequence[BaseRoute] = (),
    page: bool = True,
) -> ASGIApp:
    """The endpoint as an ASGI application; mounted at ``/batchscope`` it answers ``/batchscope/metrics`` and so on.

    ``source`` is a collector, or whatever else reads as one. ``token``, else ``token_file``, else the variable
    BATCHSCOPE_TOKEN: who does not send it gets 401. ``stall_seconds``: ``/healthz`` answers 503 when requests are
    there and no iteration has ended for longer. ``max_age``: who asks within so many seconds shares an answer.
    ``routes``: more of them, Starlette's, behind the same token; where path and method are ours, ours answers.
    ``page``: browsers get a page at ``/``, and ``/history`` its figures; its history begins when it is first asked for.
    """
    return _app(
        source, Recorder(source) if page else None, find_token(token, token_file), vllm_names=vllm_names,
        series_budget=series_budget, stall_seconds=stall_seconds, max_age=max_age, clock=clock, routes=routes,
    )  # fmt: skip


def _app(
    source: StateSource,
    recorder: Recorder | None,
    token: bytes | None,
    *,
    vllm_names: bool,
    series_budget: int,
    stall_seconds: float,
    routes: Sequence[BaseRoute],
    max_age: float = MAX_AGE_SECONDS,
    clock: Clock = time.monotonic,
) -> ASGIApp:
    _check_source(source)
    try:
        from batchscope.server.app import Endpoints, make_app  # noqa: PLC0415  (starlette is an extra)
    except ModuleNotFoundError as error:
        raise _missing("make_asgi_app", error) from error
    exposition = Exposition(vllm_names=vllm_names, series_budget=series_budget)
    check_positive("stall_seconds", stall_seconds, "seconds")
    endpoints = Endpoints(
        source, exposition, stall_seconds=stall_seconds, max_age=max_age, clock=clock, recorder=recorder
    )
    return make_app([*endpoints.routes(), *routes], token, page=recorder is not None)


def serve(
    source: StateSource,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    tls_certificate: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    vllm_names: bool = False,
    series_budget: int = SERIES_BUDGET,
    stall_seconds: float = STALL_SECONDS,
    limits: ConnectionLimits | None = None,
    allowed_hosts: Collection[str] | None = None,
    routes: Sequence[BaseRoute] = (),
    page: bool = True,
) -> ServerHandle:
    """Run the endpoint in a daemon thread; returns once it answers, a handle with ``.url`` and ``.close()``.

    Port 0 finds a free one. ``tls_certificate`` (with its chain) and ``tls_key`` are PEM files; the key may be in
    the certificate's. Beyond loopback without a token it says so in the log. ``limits`` bounds the connections.
    ConfigurationError for a port that is taken, an address that is not ours, files that do not fit.

    On loopback without a token it answers to localhost, addresses of loopback, ``host`` and ``allowed_hosts`` (else the
    variable BATCHSCOPE_ALLOWED_HOSTS, comma-separated): a page in a browser cannot read it under a name of its own.
    Everywhere else names are checked only where ``allowed_hosts`` says which; ``["*"]`` takes all. All this holds for
    what ``routes`` adds (Starlette's: ``[Route("/yours", answer)]``) as for what is there.

    ``page``: browsers get a page at ``/``. What it shows of the last two hours is kept from now on, in less than 4 MiB,
    by a thread that reads the counts once a second; False: no page, no ``/history``, no thread.
    """
    hosts = declared_hosts(allowed_hosts)
    secret = find_token(token, token_file)  # once: a pipe can be read once only
    recorder = Recorder(source) if page else None
    app = _app(
        source, recorder, secret, vllm_names=vllm_names, series_budget=series_budget, stall_seconds=stall_seconds,
        routes=routes,
    )  # fmt: skip
    try:
        from batchscope.server.running import beyond_loopback, start  # noqa: PLC0415  (uvicorn is an extra)
    except ModuleNotFoundError as error:
        raise _missing("serve", error) from error
    if tls_key is not None and tls_certificate is None:
        raise ConfigurationError("tls_key", str(tls_key), "tls_certificate beside it")
    handle = start(
        app,
        host,
        port,
        certificate=None if tls_certificate is None else os.fspath(tls_certificate),
        key=None if tls_key is None else os.fspath(tls_key),
        limits=limits or ConnectionLimits(),
        hosts=hosts,
        protected=secret is not None,
        beside=recorder,
    )
    if secret is None and beyond_loopback(handle):
        logger.warning(
            "batchscope: %s can be read by every machine that reaches it, without a token:"
            " set token_file or %s, or bind 127.0.0.1",
            handle.url,
            TOKEN_VARIABLE,
        )
    return handle


def _check_source(source: object) -> None:
    if not all(hasattr(source, name) for name in ("read_totals", "get_snapshot", "closed")):
        raise ConfigurationError("source", source, "a collector, or another source such as SnapshotDirectory(...)")


def _missing(feature: str, error: ModuleNotFoundError) -> Exception:
    """What to say instead of ``error``: the extra's name, unless it is something else that is missing."""
    name = (error.name or "").partition(".")[0]
    return MissingExtraError(f"batchscope.server.{feature}", "serve") if name in {"starlette", "uvicorn"} else error
