"""A fitted model: the constants with what is known of them, where they were seen, under which settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from batchscope.errors import ConfigurationError, DecodeError
from batchscope.simulator import LinearCostModel, SchedulerOptions
from batchscope.text import quoted

Floats = npt.NDArray[np.float64]

SCHEMA = "batchscope.model/1"
CONSTANTS = LinearCostModel.__struct_fields__[:4]
"""What is always fitted."""
ALL_CONSTANTS = LinearCostModel.__struct_fields__[:5]
"""What is fitted where the iterations say that it pays."""
IDENTIFIED_WITHIN = 3.0
"""A constant whose interval spans more than this factor is not identified."""
LEAST_DOUBT = 0.02
"""However much was recorded, no constant is known better: the model is four numbers, the engine is not."""


class Constant(msgspec.Struct, frozen=True):
    """A constant of the cost model, in seconds, with its 95 % interval.

    ``share`` of the time of the iterations it accounts for. ``identified``: the data say what it is.
    """

    value: float
    low: float
    high: float
    share: float
    identified: bool


class Range(msgspec.Struct, frozen=True):
    """What the run has shown, the largest of an iteration; beyond it a prediction extrapolates."""

    batch: int
    context_tokens: int
    chunk_tokens: int


class FittedModel(msgspec.Struct, frozen=True):
    """What ``fit`` found in a run. ``depth``: ``iterations``, ``forward passes`` or ``requests``, what it could see.

    ``draws``: constants of resampled blocks of time, a row each, from which the intervals of predictions come.
    ``error``: mean relative error of the requests' instants in the part that was fitted; of iteration times at depth
    ``iterations``.
    """

    run: str
    engine: str
    depth: str
    requests: int
    until: float
    constants: dict[str, Constant]
    seen: Range
    options: SchedulerOptions
    assumed: tuple[str, ...]
    error: float
    draws: list[list[float]]
    schema: str = SCHEMA

    @property
    def cost(self) -> LinearCostModel:
        """The cost of an iteration."""
        return replace(LinearCostModel(), **{name: constant.value for name, constant in self.constants.items()})

    @property
    def drawn_costs(self) -> list[LinearCostModel]:
        """As likely costs as the one that was found."""
        return [cost_of(row) for row in self.draws]

    @property
    def not_identified(self) -> list[str]:
        """The constants that the run does not tell."""
        return [name for name, constant in self.constants.items() if not constant.identified]

    def to_json(self) -> bytes:
        """The JSON document."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def cost_of(constants: Sequence[float] | Floats) -> LinearCostModel:
    """The cost with these constants, in the order of ``ALL_CONSTANTS``; those at its end may be left out."""
    return replace(LinearCostModel(), **dict(zip(ALL_CONSTANTS, map(float, constants), strict=False)))


class _Stamp(msgspec.Struct):
    schema: str


def read_model(path: Path) -> FittedModel:
    """The model in the file; DecodeError for what is none."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DecodeError(f"{path}: cannot be read ({error.strerror}): expected what 'batchscope fit' wrote") from error
    try:
        stamp = msgspec.json.decode(text, type=_Stamp)
        if stamp.schema != SCHEMA:
            raise DecodeError(f"{path}: schema = {stamp.schema!r}: expected {SCHEMA!r}; fit again with this version")
        model = msgspec.json.decode(text, type=FittedModel)
        wrong = _wrong(model)
    except (msgspec.MsgspecError, ConfigurationError, UnicodeError, RecursionError) as error:
        wrong = str(error)
    if wrong:
        raise DecodeError(f"{path}: no model ({wrong}): expected what 'batchscope fit RUN --out FILE' wrote")
    return model


def _wrong(model: FittedModel) -> str:
    """What of the constants and their draws cannot be; empty: nothing."""
    names = ALL_CONSTANTS[: max(len(CONSTANTS), len(model.constants))]
    if set(model.constants) != set(names):
        return f"constants {', '.join(map(quoted, sorted(model.constants)[:8]))}, expected {', '.join(CONSTANTS)}"
    if not model.draws or any(len(row) != len(names) for row in model.draws):
        return f"draws: expected rows of {len(names)} numbers"
    for row in [[model.constants[name].value for name in names], *model.draws]:
        if not all(value >= 0 and math.isfinite(value) for value in row) or not any(row):
            return f"constants {row}: expected seconds >= 0, not all of them 0"
    return ""


def constants_of(point: Floats, draws: Floats, work: Floats, unknown: Sequence[str] = ()) -> dict[str, Constant]:
    """By name, from the values found, resampled ones (a row each) and how much work each was multiplied with.

    ``unknown`` ones cannot be told apart from others.
    """
    work = work[: len(point)]
    total = float(point @ work) or math.nan
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return {
        name: Constant(
            value=float(point[index]),
            low=float(min(low[index], point[index] * (1 - LEAST_DOUBT))),
            high=float(max(high[index], point[index] * (1 + LEAST_DOUBT))),
            share=float(point[index] * work[index] / total),
            identified=bool(name not in unknown and low[index] > 0 and high[index] / low[index] <= IDENTIFIED_WITHIN),
        )
        for index, name in enumerate(ALL_CONSTANTS[: len(point)])
    }
