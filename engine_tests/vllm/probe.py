"""Runs vLLM's HTTP server, and tells which threads and modules of batchscope its process has when asked.

    python probe.py ANSWER_FILE [arguments of the server]

Asked by making the file ANSWER_FILE.ask; the answer is JSON: {"threads": [...], "modules": [...]}, and the CPU time of
each thread. With PROBE_TIMES_CALLS in the environment the plug-in's calls are timed as well. Ends the server when
whoever started it is gone.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

TIMED = {"calls": 0, "call_seconds": 0.0}


def time_calls() -> None:
    """Count the plug-in's calls and the CPU time of their thread; timing them is counted with them."""
    from batchscope.engines.vllm.source import VllmSource

    record = VllmSource.record

    def timed(*arguments: Any) -> None:
        start = time.thread_time()
        record(*arguments)
        TIMED["call_seconds"] += time.thread_time() - start
        TIMED["calls"] += 1

    VllmSource.record = timed  # type: ignore[method-assign]


def answer(where: Path) -> None:
    """Wait for questions, in a thread of its own."""
    ask = where.with_name(where.name + ".ask")
    pause, parent = threading.Event(), os.getppid()
    while not pause.wait(0.2):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if ask.exists():
            ask.unlink()
            found = {
                "threads": sorted(thread.name for thread in threading.enumerate()),
                "modules": sorted(name for name in list(sys.modules) if name.split(".")[0] == "batchscope"),
                "thread_seconds": {
                    thread.name: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
                    for thread in threading.enumerate() if thread.ident
                },
                **TIMED,
            }  # fmt: skip
            part = where.with_name(where.name + ".part")
            part.write_text(json.dumps(found))
            part.rename(where)


if __name__ == "__main__":
    threading.Thread(target=answer, args=(Path(sys.argv[1]),), name="probe", daemon=True).start()
    if "PROBE_TIMES_CALLS" in os.environ:
        time_calls()
    sys.argv = ["vllm", *sys.argv[2:]]
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
