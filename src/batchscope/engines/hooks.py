"""Hooks into an engine's objects that cannot hurt it: its own call always happens, its result is always its own.

A hook replaces a method on one object, never on a class, so other engines in the process are untouched. What a
hook raises is counted and logged once; the engine goes on as if the hook were not there.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("batchscope")
_ABSENT = object()

Before = Callable[..., Any]
After = Callable[..., Any]


class Hooks:
    """The hooks of one attachment: set, counted, taken off again.

    ``failures`` counts what hooks raised; ``missing`` names the methods that the engine's version does not have.
    """

    def __init__(self, owner: str) -> None:
        self.failures = 0
        self.missing: list[str] = []
        self._owner = owner
        self._undo: list[tuple[Any, str, Any]] = []

    def guard(self, function: Callable[..., Any] | None, *arguments: Any) -> Any:
        """The function's result; ``None`` if it is none or raised."""
        if function is None:
            return None
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001  (whatever it is, the engine's requests matter more)
            self.caught(error)
            return None

    def caught(self, error: Exception) -> None:
        """Count what a hook raised; the first is logged."""
        self.failures += 1
        if self.failures == 1:
            logger.error(
                "batchscope: measuring %s failed; the engine goes on, figures are missing", self._owner, exc_info=error
            )

    def wrap(
        self,
        target: Any,
        name: str,
        *,
        before: Before | None = None,
        after: After | None = None,
        failed: After | None = None,
    ) -> None:
        """Have ``target.name(...)`` call ``before(*args)``, then ``after(note, result, *args)``.

        ``note`` is what ``before`` gave. Where the engine's own method raises, ``failed(note, error, *args)`` is
        called and the error goes on. Keywords of the call come to neither.
        """
        original = getattr(target, name, None)
        if not callable(original):
            self.missing.append(name)
            return

        @functools.wraps(original)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            note = self.guard(before, *args)
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                self.guard(failed, note, error, *args)
                raise
            self.guard(after, note, result, *args)
            return result

        self._undo.append((target, name, vars(target).get(name, _ABSENT)))
        setattr(target, name, hooked)

    def remove(self) -> None:
        """Put everything back as it was, the last hook first."""
        while self._undo:
            target, name, original = self._undo.pop()
            if original is _ABSENT:
                delattr(target, name)
            else:
                setattr(target, name, original)
