"""The few operations of torch that mini-sglang's scheduler and caches use, on numpy: small tensors, on the CPU."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np


class Tensor(np.ndarray):
    """An array that answers to a tensor's method names."""

    is_cpu = True
    device = "cpu"

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(super().__getitem__(key)).view(Tensor)  # a tensor's element is a tensor

    def to(self, *asked: Any, **_: Any) -> Tensor:
        kinds = [kind for kind in asked if isinstance(kind, type)]
        return self.astype(kinds[0]) if kinds else self

    def fill_(self, value: int) -> None:
        self.fill(value)

    def copy_(self, other: Any, **_: Any) -> None:
        self[...] = other

    def unsqueeze(self, axis: int) -> Tensor:
        return np.expand_dims(self, axis)

    def clone(self) -> Tensor:
        return self.copy()

    def pin_memory(self) -> Tensor:
        return self


def _made(values: Any, dtype: Any = None) -> Tensor:
    return np.asarray(values, dtype=dtype).view(Tensor)


def _arange(*bounds: int, dtype: Any = None, out: Any = None, **_: Any) -> Any:
    values = _made(np.arange(*bounds), dtype)
    if out is None:
        return values
    out[...] = values
    return out


def compare_key(left: Any, right: Any) -> int:
    """How many tokens two keys begin with in common: its C++ kernel, in numpy."""
    length = min(len(left), len(right))
    different = np.flatnonzero(np.asarray(left[:length]) != np.asarray(right[:length]))
    return int(different[0]) if len(different) else length


TORCH = {
    "Tensor": Tensor,
    "int32": np.int32,
    "int64": np.int64,
    "arange": _arange,
    "tensor": lambda values, dtype=None, **_: _made(values, dtype),
    "empty": lambda shape, dtype=None, **_: _made(np.zeros(shape), dtype),
    "zeros": lambda shape, dtype=None, **_: _made(np.zeros(shape), dtype),
    "zeros_like": lambda like, dtype=None, **_: _made(np.zeros(like.shape), dtype),
    "cat": lambda parts: _made(np.concatenate([np.asarray(part) for part in parts])),
    "all": np.all,
    "inference_mode": lambda: lambda function: function,
    "cuda": SimpleNamespace(
        Stream=lambda **_: SimpleNamespace(wait_stream=lambda _: None),
        stream=lambda _: nullcontext(),
        set_stream=lambda _: None,
        Event=object,
    ),
}
