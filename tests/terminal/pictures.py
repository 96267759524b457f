"""The pictures of `batchscope top` for the documentation: a seeded engine, a clock that stands still. pictures.py FOLDER"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rich.console import Group
from rich.text import Text
from scenes import scenes

from batchscope.terminal.frame import frame
from batchscope.terminal.styles import Colors, style_of
from batchscope.views.rendering import picture

PICTURES = {"top": ("live", 100, 30), "top-fleet": ("fleet", 100, 24)}


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (what, width, height) in PICTURES.items():
        scene, viewing = scenes()[what]
        lines = frame(scene, viewing, width, height).lines
        shown = [Text.assemble(*((text, style_of(role, Colors.TRUE)) for text, role in line)) for line in lines]
        (folder / f"{name}.svg").write_text(picture(Group(*shown), width), "utf-8")


if __name__ == "__main__":
    main()
