"""An engine in a process of its own that records a run until it is killed; it says on stdout what it has recorded."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector

STEP = 0.002
RUNNING = 8
TOKENS = 25


def engine(root: str, interval: float, part_seconds: float) -> None:
    """Decode in ``RUNNING`` slots for ever; every 10 steps a line: steps so far, finished so far, instant."""
    from batchscope.ledger.recording import record

    collector = SchedulerMetricsCollector(limits=SchedulerLimits(max_running_requests=RUNNING))
    record(
        collector, root, instance_id="killed", clock=time.monotonic, interval=interval, part_seconds=part_seconds
    )  # fmt: skip
    tracker = RequestTracker(collector)
    handles = [tracker.arrived(f"first-{slot}", prompt_tokens=9) for slot in range(RUNNING)]
    emitted = [3 * slot for slot in range(RUNNING)]
    steps = finished = 0
    while True:
        tracker.iteration(handles)
        steps += 1
        for slot in range(RUNNING):
            emitted[slot] += 1
            if emitted[slot] == TOKENS:
                tracker.finished(handles[slot], CompletionReason.EOS_TOKEN_REACHED)
                finished += 1
                handles[slot], emitted[slot] = tracker.arrived(f"{steps}-{slot}", prompt_tokens=9), 0
        if steps % 10 == 0:
            print(steps, finished, time.monotonic(), flush=True)
        time.sleep(STEP)


def record_and_kill(
    root: Path, after: float, *, interval: float = 0.1, part_seconds: float = 600.0
) -> tuple[int, int, float, float]:
    """Let an engine record for ``after`` seconds from its first line on, then kill it.

    Its steps, how many finished, and the instants of its first and last line. Here a test waits: what is killed is a process, and its clock is the machine's.
    """
    command = [sys.executable, __file__, str(root), str(interval), str(part_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        until = time.monotonic() + after
        while time.monotonic() < until:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    whole = [line.split() for line in lines if line.endswith("\n") and line.count(" ") == 2]
    steps, finished, at = whole[-1]
    return int(steps), int(finished), float(whole[0][2]), float(at)


if __name__ == "__main__":
    engine(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
