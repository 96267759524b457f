"""These tests use doubles of other rooms, too."""

import sys
from pathlib import Path

for folder in ("terminal", "views", "cli", "scraping"):
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))
