"""Installs SGLang without its GPU packages and runs prove.py there: ``python engine_tests/sglang/run.py``.

SGLang's engine needs a GPU; its metrics collectors, its tokenizer manager and its forward-pass publisher do not.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from environment import run_in

STEPS = (
    ("torch==2.13.0", "transformers==5.19.0"),
    ("--no-deps", "sglang==0.5.23", "torchvision==0.28.0"),
    (
        "prometheus-client", "msgspec", "numpy", "pyzmq", "aiohttp", "apache-tvm-ffi", "compressed-tensors", "dill",
        "einops", "fastapi", "gguf", "ipython", "openai", "orjson", "partial-json-parser", "pillow", "psutil",
        "pybase64", "pydantic", "requests", "sentencepiece", "triton", "uvicorn", "uvloop",
    ),
)  # fmt: skip
"""What importing ``sglang.srt.managers.tokenizer_manager`` of 0.5.23 takes, and no more."""

if __name__ == "__main__":
    sys.exit(run_in("sglang", STEPS, Path(__file__).with_name("prove.py"), seconds=300))
