"""Texts that cannot be written: Python's may hold lone surrogates (of a file name, say), UTF-8 has none."""

from __future__ import annotations

from typing import Any


def readable(text: str) -> str:
    """``text``, with each lone surrogate as an escape in letters: different texts stay different."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def readable_document(value: Any) -> Any:
    """``value``, of dicts, lists and scalars, with every text in it readable."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, dict):
        return {readable_document(key): readable_document(item) for key, item in value.items()}
    if isinstance(value, list):
        return [readable_document(item) for item in value]
    return value
