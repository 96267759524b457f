"""The bearer token of an endpoint: where it comes from, and the comparison. It is never part of a message."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path

from batchscope.errors import ConfigurationError

TOKEN_VARIABLE = "BATCHSCOPE_TOKEN"  # noqa: S105  (the variable's name)
_HIDDEN = "(not shown)"
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_ALLOWED = "visible ASCII characters without blanks, at least one"
_LARGEST_FILE = 4096


def find_token(
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> bytes | None:
    """The token as given, else the file's only line, else the variable's value; None = everybody may read.

    An empty or unreadable one is a ConfigurationError: whoever meant to protect the endpoint must not serve it open.
    """
    if token is not None and token_file is not None:
        raise ConfigurationError("token_file", str(token_file), "token or token_file, not both")
    if token is not None:
        return _checked("token", token)
    if token_file is not None:
        return _from_file(token_file)
    if TOKEN_VARIABLE in environment:
        return _checked(TOKEN_VARIABLE, environment[TOKEN_VARIABLE].strip())
    return None


def allows(token: bytes | None, authorization: bytes | None) -> bool:
    """Whether the Authorization header's value holds the token; compared in constant time."""
    if token is None:
        return True
    scheme, _, given = (authorization or b"").partition(b" ")
    return hmac.compare_digest(given.strip(), token) and scheme.lower() == b"bearer"


def _checked(field: str, token: str) -> bytes:
    if not isinstance(token, str) or not _VISIBLE.fullmatch(token):
        raise ConfigurationError(field, _HIDDEN, _ALLOWED)
    return token.encode("ascii")


def _from_file(path: str | os.PathLike[str]) -> bytes:
    """The token in the file; what is wrong is said by the file's name, never by its contents."""
    try:
        with Path(path).open("rb") as file:
            token = file.read(_LARGEST_FILE + 1).strip()
    except OSError as error:
        raise ConfigurationError("token_file", str(path), f"a readable file ({error.strerror or error})") from None
    if not token:
        raise ConfigurationError("token_file", str(path), f"a file that holds the token ({_ALLOWED}); it is empty")
    if len(token) > _LARGEST_FILE:
        raise ConfigurationError("token_file", str(path), f"a token of at most {_LARGEST_FILE} characters")
    if not _VISIBLE.fullmatch(token.decode("latin-1")):
        raise ConfigurationError("token_file", str(path), f"a file that holds the token and nothing else: {_ALLOWED}")
    return token
