"""The last N items."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from batchscope.errors import ConfigurationError

T = TypeVar("T")


class CircularBuffer(Generic[T]):
    """The last ``capacity`` items, oldest first. An overwritten or cleared item is not kept alive.

    Adding takes constant time. Not thread-safe; iterating while another thread adds raises RuntimeError.
    """

    def __init__(self, capacity: int) -> None:
        if type(capacity) is not int or capacity < 1:
            raise ConfigurationError("capacity", capacity, "an integer >= 1")
        self._items: deque[T] = deque(maxlen=capacity)
        self._capacity = capacity

    @property
    def capacity(self) -> int:
        """The number of items after which the oldest is overwritten."""
        return self._capacity

    def add(self, item: T) -> None:
        """Append one item."""
        self._items.append(item)

    def extend(self, items: Iterable[T]) -> None:
        """Append each of ``items`` in turn."""
        self._items.extend(items)

    def clear(self) -> None:
        """Forget every item."""
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __getitem__(self, index: int) -> T:
        """The item ``index`` places after the oldest, or from the newest back if negative; or IndexError."""
        return self._items[index]

    def __repr__(self) -> str:
        return f"CircularBuffer({len(self)} of {self._capacity})"
