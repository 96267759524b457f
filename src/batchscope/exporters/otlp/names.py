"""The catalogue in OpenTelemetry's terms: dotted names without unit or ``_total``, units as UCUM; and ``gen_ai.*``.

What is taken off a name here is what Prometheus and the OpenTelemetry collector put on again when they translate
OTLP (https://github.com/prometheus/otlptranslator): over either way a metric has the same name in PromQL.
"""

from __future__ import annotations

from typing import NamedTuple

from batchscope.catalog import PREFIX, Metric
from batchscope.statistics.cumulative import CumulativeState

NAMESPACE = "batchscope."
_UCUM = {
    "bytes": "By",
    "celsius": "Cel",
    "hertz": "Hz",
    "joules": "J",
    "ratio": "1",
    "seconds": "s",
    "watts": "W",
}  # what is counted (requests, tokens) has an annotation for a unit: {request}


def otlp_name(metric: Metric) -> str:
    """``batchscope_iteration_busy_seconds_total`` -> ``batchscope.iteration_busy``."""
    name = metric.name.removeprefix(PREFIX).removesuffix("_total")
    return NAMESPACE + (name.removesuffix(f"_{metric.unit}") if metric.unit in _UCUM else name)


def otlp_unit(metric: Metric) -> str:
    """``seconds`` -> ``s``, ``requests`` -> ``{request}``, none -> none."""
    if not metric.unit or metric.unit in _UCUM:
        return _UCUM.get(metric.unit, "")
    return "{" + metric.unit.removesuffix("s") + "}"


class GenAiMetric(NamedTuple):
    """A metric of the semantic conventions, and the histogram whose classes together it is."""

    name: str
    description: str
    histogram: str


GEN_AI_METRICS = (
    GenAiMetric(
        "gen_ai.server.request.duration",
        "Generative AI server request duration: arrival to finish, of completed requests.",
        "total_time",
    ),
    GenAiMetric(
        "gen_ai.server.time_to_first_token",
        "Time to the first token: arrival to first emission, of every request that had one.",
        "time_to_first_token",
    ),
    GenAiMetric(
        "gen_ai.server.time_per_output_token",
        "Time per output token after the first, of completed requests: what the request took after its first token.",
        "server_time_per_output_token",
    ),
)
"""The model server metrics of the GenAI semantic conventions (status: development), all in seconds.

Source: https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-metrics.md. The convention's
time per output token is (request duration - time to first token) / (tokens - 1): a histogram of its own beside
ours, which ends at the last emission.
"""


class GenAiAttributes(NamedTuple):
    """The attributes of ``gen_ai.*``: the operation, who provides it, the model.

    Where not given the provider is the engine's kind and the model is the collector's label ``model_name``.
    """

    operation_name: str = "chat"
    provider_name: str | None = None
    request_model: str | None = None

    def of(self, state: CumulativeState) -> dict[str, str]:
        """Operation and provider are required by the convention, the model only where it is known."""
        model = self.request_model or state.labels.get("model_name")
        return {
            "gen_ai.operation.name": self.operation_name,
            "gen_ai.provider.name": self.provider_name or state.engine.kind or "batchscope",
            **({"gen_ai.request.model": model} if model else {}),
        }
