"""The page that says where code lives leaves out no room, and names none that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NO_ROOMS = {"__init__", "__main__", "py.typed", "version", "__pycache__"}


def test_the_map_of_rooms_is_the_folder():
    found = {path.stem if path.suffix == ".py" else path.name for path in (ROOT / "src" / "batchscope").iterdir()}
    ground, *lines = re.search(r"^src/batchscope/\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1].splitlines()
    named = {*ground.split("     ")[0].split(), *re.findall(r"^  (\w+)", "\n".join(lines), re.MULTILINE)}
    assert named == found - NO_ROOMS


def test_a_decision_that_is_written_down_is_listed():
    listed = re.findall(r"^\* \[\d+\]\(decisions/([^)]+)\)", PAGE, re.MULTILINE)
    assert listed == sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
