"""Text that somebody else chose: how people are shown it, and how it is written where only UTF-8 can be.

A file's name, a label of a scraped page, a server's reason, an exception's message: each may hold what moves a
terminal's cursor, turns the reading direction or never ends. Everything that shows such text uses this module.
"""

from __future__ import annotations

from typing import Any

import msgspec

LONGEST = 500
"""Characters of one foreign text that people are shown."""


def shown(value: object, longest: int = LONGEST) -> str:
    """``str(value)`` on one line and without what could steer a terminal; ``...`` where the rest is left out.

    Control characters, line ends, reading directions, lone surrogates and blanks that cannot be told from others
    are escaped as in a Python literal.
    """
    text = str(value)
    kept = text if len(text) <= longest else text[:longest] + "..."
    return kept if kept.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in kept)


def quoted(value: object, longest: int = 60) -> str:
    """``repr(value)`` for a message: in its quotes, on one line, at most ``longest`` characters and ``...``."""
    text = shown(repr(value[: longest + 1] if isinstance(value, str | bytes) else value), longest=2 * longest)
    return text if len(text) <= longest else f"{text[: longest - 4]}{text[0]}..."


def shown_document(value: Any, longest: int = LONGEST) -> Any:
    """``value``, of structs, dicts, lists and scalars, with every text in it as ``shown``; members of enums stay."""
    if type(value) is str:
        return shown(value, longest)
    if isinstance(value, msgspec.Struct):
        fields = {name: shown_document(getattr(value, name), longest) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **fields)
    if isinstance(value, dict):
        return {shown_document(key, longest): shown_document(item, longest) for key, item in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(shown_document(item, longest) for item in value)
    return value


def readable(text: str) -> str:
    """``text`` for a file or a protocol: each lone surrogate as an escape in letters; different texts stay different.

    Python's texts may hold lone surrogates (of a file name, say); UTF-8 has none.
    """
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


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
