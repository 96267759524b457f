"""Small real traces."""

import pytest
from command_line import HEADER, ROWS


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "".join(ROWS))
    return path
