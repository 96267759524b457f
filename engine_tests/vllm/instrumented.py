"""A scheduler of somebody else, as an engine around vLLM brings one: it notes in a file that it was asked to plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler


class Instrumented(AsyncScheduler):
    """vLLM's, which leaves a mark."""

    def schedule(self, *arguments: Any, **options: Any) -> Any:
        """As vLLM's."""
        Path(os.environ["INSTRUMENTED_MARK"]).touch()
        return super().schedule(*arguments, **options)
