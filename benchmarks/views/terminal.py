"""What `batchscope top` costs in a terminal of its own, at 1, 10 and 200 engines; and how fast it answers keys.

    python benchmarks/views/terminal.py [--quick] [--json FILE]

The engines are simulated ones behind one server of another process. A look at 200 engines comes every 8 s, as top has
it. Of the 200, 20 never answer. Targets: 3 % of a core at 1 engine, 15 % at 200, a key on the screen within 100 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVER = HERE.parent.parent / "tests" / "terminal" / "fleet_server.py"
TICKS = os.sysconf("SC_CLK_TCK")
SIZES = ((1, 0, 3.0), (10, 0, None), (200, 20, 15.0))
KEY_TARGET = 0.1


class Terminal:
    """A child in a pty: what it writes is read, what it costs is what the kernel says."""

    def __init__(self, command, rows=40, columns=120):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.update(TERM="xterm-256color", LINES=str(rows), COLUMNS=str(columns))
            os.execvp(command[0], command)  # noqa: S606  (our own command, in a terminal of its own)

    def read_for(self, seconds):
        """All that comes within ``seconds``."""
        end, found = time.monotonic() + seconds, b""
        while (left := end - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                try:
                    found += os.read(self.fd, 65536)
                except OSError:  # it has ended
                    break
        return found

    def answer(self, key):
        """Seconds from a key to the first byte that the screen gets for it."""
        self.drain()
        begin = time.perf_counter()
        os.write(self.fd, key)
        select.select([self.fd], [], [], 5.0)
        return time.perf_counter() - begin

    def drain(self):
        while select.select([self.fd], [], [], 0.02)[0]:
            os.read(self.fd, 65536)

    def cpu(self):
        """Seconds of CPU so far, of all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self):
        """MiB resident."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def end(self):
        os.write(self.fd, b"q")
        self.read_for(1.0)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def measure(engines, hanging, *, settle, seconds):
    server = subprocess.Popen(
        [sys.executable, str(SERVER), str(engines), str(hanging)], stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(server.stdout.readline())
        urls = [f"http://127.0.0.1:{port}/e{number}/metrics" for number in range(engines)]
        top = Terminal([sys.executable, "-m", "batchscope", "top", *urls])
        top.read_for(settle)
        cpu, begin = top.cpu(), time.monotonic()
        written = len(top.read_for(seconds))
        share = 100 * (top.cpu() - cpu) / (time.monotonic() - begin)
        keys = sorted(top.answer(b"?") for number in range(30))
        memory = top.memory()
        top.end()
    finally:
        server.terminate()
        server.wait()
    return {
        "engines": engines, "hanging": hanging, "percent_of_a_core": round(share, 2),
        "key_median_ms": round(1e3 * statistics.median(keys), 1), "key_longest_ms": round(1e3 * keys[-1], 1),
        "memory_mib": round(memory), "bytes_a_second": round(written / seconds),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    found = []
    for engines, hanging, target in SIZES:
        settle = (5, 8) if chosen.quick else (10, 30)
        one = measure(
            engines, hanging, settle=settle[1] if engines > 50 else settle[0], seconds=10 if chosen.quick else 30
        )
        found.append(one)
        beside = "" if target is None else f" (target {target:g})"
        print(f"{engines:4} engines, {hanging} of them hang: {one['percent_of_a_core']:5.1f} % of a core{beside}, "
              f"a key within {one['key_longest_ms']:.0f} ms (median {one['key_median_ms']:.0f}; target 100), "
              f"{one['memory_mib']} MiB, {one['bytes_a_second']} bytes/s to the terminal", flush=True)  # fmt: skip
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
