"""Request classes for an engine that hands out none: from a part of the request's id, or from its priority.

vLLM's statistics of a finished request have the id that its client or server gave it, not its priority: that is
known to the scheduler, and told by the class that reports (``vllm_admission``) when the request is first scheduled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

from batchscope.engines.vllm.admission import PRIORITY
from batchscope.errors import ConfigurationError

SETTING = "BATCHSCOPE_VLLM_REQUEST_CLASS"
_ALLOWED = "priority, or id:REGEX whose first group (or whole match) is the class; cmpl-(\\w+)-, for example"
_INTERNAL = re.compile(r"((?:\d+_)?(.*))-[0-9a-f]{8}", re.DOTALL)
"""vLLM's own ids: that of the client and 8 random digits; of several answers to one prompt, with a number before it."""
_MOST_PRIORITIES = 1 << 16


class RequestClasses(Protocol):
    """Says which class a request is of."""

    def of(self, request_id: Any) -> str | None:
        """The class; None where the id tells none."""

    def learn(self, stages: Any) -> None:
        """What the scheduler told beside a step's statistics."""


class ClassesById:
    """The class stands in the id: the first group of ``pattern``, without a group all that it matches."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def of(self, request_id: Any) -> str | None:
        """None where the pattern is not found."""
        found = self._pattern.search(request_id) if isinstance(request_id, str) else None
        return found[min(self._pattern.groups, 1)] if found else None

    def learn(self, stages: Any) -> None:
        """Nothing."""


class ClassesByPriority:
    """The class is the priority, as text; ``0`` where the scheduler told no other. The last 65,536 are remembered."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def of(self, request_id: Any) -> str | None:
        """By the client's id, under which requests finish."""
        return self._told.get(request_id, "0") if isinstance(request_id, str) else None

    def learn(self, stages: Any) -> None:
        """Keys of the mapping that name a request and its priority."""
        if isinstance(stages, dict) and len(stages) > 1:
            for key in stages:
                if isinstance(key, str) and key.startswith(PRIORITY):
                    priority, _, name = key.removeprefix(PRIORITY).partition(":")
                    self._remember(names_of(name), priority)

    def _remember(self, names: Iterable[str], priority: str) -> None:
        for name in names:
            self._told.pop(name, None)
            self._told[name] = priority
        while len(self._told) > _MOST_PRIORITIES:
            del self._told[next(iter(self._told))]


def names_of(name: str) -> tuple[str, ...]:
    """The scheduler's id of a request, and those that its client may have given it, under which it finishes."""
    found = _INTERNAL.fullmatch(name)
    return tuple(dict.fromkeys((name, *found.groups()))) if found else (name,)


def parse_request_class(text: str) -> RequestClasses | None:
    """What the setting asks for, None for nothing; ConfigurationError for what cannot be."""
    text = text.strip()
    if not text:
        return None
    if text == "priority":
        return ClassesByPriority()
    if not text.startswith("id:") or text == "id:":
        raise ConfigurationError(SETTING, text, _ALLOWED)
    try:
        return ClassesById(re.compile(text.removeprefix("id:")))
    except re.error as error:
        raise ConfigurationError(SETTING, text, f"{_ALLOWED} ({error})") from None
