"""What the tests of JSON lines share: a file, what is in it, and processes of their own."""

import subprocess
import sys

from batchscope.exporters.jsonl import read_json_lines
from batchscope.exporters.jsonl.file import LinesFile

NEVER = 3600


def lines_file(path, max_bytes=1 << 20, keep=3, fsync="never"):
    path.parent.mkdir(parents=True, exist_ok=True)
    return LinesFile(path, max_bytes, keep, fsync)


def sequences(path, **options):
    return [snapshot.sequence for snapshot in read_json_lines(path, **options)]


def python(code, *arguments):
    """A process of its own that runs ``code``."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process):
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def complete(collector, lines=2):
    """Lines as the exporter writes them."""
    return [collector.get_snapshot().to_json() for _ in range(lines)]
