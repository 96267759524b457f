"""Every exception a user can meet; each message says what happened, the value, what is allowed, what to do."""

from __future__ import annotations

import pickle
from typing import Any


class BatchscopeError(Exception):
    """Base class: catching it catches everything batchscope raises on purpose."""


class ConfigurationError(BatchscopeError, ValueError):
    """A field of a configuration object is out of its range."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} = {value!r}: expected {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker's error goes to its parent: with the value as it is, where it can go there, else in words."""
        return type(self), (self.field, _portable(self.value), self.allowed)


class InvalidRecordError(BatchscopeError, ValueError):
    """A record was rejected and the configuration says ``strict=True``."""


class BusyError(BatchscopeError, RuntimeError):
    """A thread reads a collector while it already does: from a sink, a signal handler or a finalizer."""


class MergeError(BatchscopeError, ValueError):
    """Two aggregates that cannot be added were asked to; the message names both sides."""


class DecodeError(BatchscopeError, ValueError):
    """A document is not what it should be (foreign, truncated, another schema)."""


class WorkloadError(BatchscopeError, ValueError):
    """A workload trace cannot be read; the message names the file and the line."""


class MissingExtraError(BatchscopeError, ImportError):
    """A feature needs a package of an extra that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install 'batchscope[{extra}]'")
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[Any, ...]:
        """As it was made."""
        return type(self), (self.feature, self.extra)


class MissingPackageError(BatchscopeError, ImportError):
    """A feature needs a package of somebody else that is not installed."""

    def __init__(self, feature: str, package: str) -> None:
        super().__init__(f"{feature} needs {package}: pip install {package}; to_csv() needs nothing", name=package)
        self.feature = feature
        self.package = package

    def __reduce__(self) -> tuple[Any, ...]:
        """As it was made."""
        return type(self), (self.feature, self.package)


def _portable(value: object) -> object:
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301  (our own bytes)
    except Exception:  # noqa: BLE001  (anybody's value)
        return _InWords(repr(value))
    return value


class _InWords(str):
    """What stands for a value that cannot leave its process: its ``repr``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
