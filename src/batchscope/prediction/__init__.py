"""What the engine would have done: a cost model fitted to a recorded run, and the run under other settings."""

from batchscope.prediction.figures import Figure, RequestInstants, figures_of
from batchscope.prediction.fit import fit
from batchscope.prediction.model import Constant, FittedModel, read_model
from batchscope.prediction.observed import IterationsSeen, NotEnoughError, Observed, OtherEngineError
from batchscope.prediction.whatif import Prediction, what_if

__all__ = [
    "Constant",
    "Figure",
    "FittedModel",
    "IterationsSeen",
    "NotEnoughError",
    "Observed",
    "OtherEngineError",
    "Prediction",
    "RequestInstants",
    "figures_of",
    "fit",
    "read_model",
    "what_if",
]
