"""Runs vLLM's HTTP server, and tells which threads and modules of batchscope its process has when asked.

    python probe.py ANSWER_FILE [arguments of the server]

Asked by making the file ANSWER_FILE.ask; the answer is JSON: {"threads": [...], "modules": [...]}. Ends the server
when whoever started it is gone.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
from pathlib import Path


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
            }
            part = where.with_name(where.name + ".part")
            part.write_text(json.dumps(found))
            part.rename(where)


if __name__ == "__main__":
    threading.Thread(target=answer, args=(Path(sys.argv[1]),), name="probe", daemon=True).start()
    sys.argv = ["vllm", *sys.argv[2:]]
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
