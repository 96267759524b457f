"""OpenTelemetry: everything a collector counts, sent over OTLP from a thread of ours. Needs the extra ``otlp``."""

from batchscope.exporters.otlp.exporter import OtlpExporter
from batchscope.exporters.otlp.names import GenAiAttributes

__all__ = ["GenAiAttributes", "OtlpExporter"]
