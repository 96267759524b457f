"""Opens a page in the user's browser."""

from __future__ import annotations

import threading
import webbrowser

from batchscope.cli.simulation import note


def open_page(url: str) -> None:
    """In a thread: a browser in the terminal would hold the command up. Says so where there is none."""

    def opened() -> None:
        if not webbrowser.open(url):
            note(f"there is no browser to open here: open {url} yourself")

    threading.Thread(target=opened, name="batchscope-browser", daemon=True).start()
