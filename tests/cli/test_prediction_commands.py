"""``fit`` and ``whatif`` on a run that was recorded: what they print, write and refuse."""

from __future__ import annotations

import json

import pytest
from command_line import run_command  # noqa: F401  (replaced below where the helper has another name)
