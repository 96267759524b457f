"""JSON lines: one snapshot a line in a file that rotates by size and survives crashes and full disks."""

from batchscope.exporters.jsonl.exporter import JsonLinesExporter
from batchscope.exporters.jsonl.reader import JsonLines, read_json_lines

__all__ = ["JsonLines", "JsonLinesExporter", "read_json_lines"]
