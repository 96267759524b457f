"""The page in a browser: HTML for who asks for it at ``/``, and its files. They carry no data and need no token."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from batchscope.dashboard.files import INDEX, PageFile, files
from batchscope.server.negotiation import accepts_gzip, prefers_html

PREFIX = "/page/"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Vary": "Accept, Accept-Encoding",
}


class Paged:
    """Answers with the page where a browser asks for ``/``, with its files below ``/page/``, else as ``app`` does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = _wanted(scope)
        one = files().get(name) if name else None
        if one is None:
            await self._app(scope, receive, send)
        else:
            await _given(one, Headers(scope=scope))(scope, receive, send)


def _wanted(scope: Scope) -> str:
    """The file of the page that is asked for; empty: none."""
    if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
        return ""
    path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
    if path in {"", "/"}:
        return INDEX if prefers_html(", ".join(Headers(scope=scope).getlist("accept"))) else ""
    name = path.removeprefix(PREFIX)
    return name if path.startswith(PREFIX) and name != INDEX else ""


def _given(one: PageFile, headers: Headers) -> Response:
    own = {**HEADERS, "ETag": one.tag}
    if headers.get("if-none-match") == one.tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=own)
    own["Content-Type"] = one.kind
    if accepts_gzip(", ".join(headers.getlist("accept-encoding"))):
        return Response(one.packed, headers={**own, "Content-Encoding": "gzip"})
    return Response(one.content, headers=own)
