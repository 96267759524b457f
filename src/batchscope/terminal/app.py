"""The screen: textual's keys, mouse and terminal around the lines of ``frame``; only what changed is redrawn."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from rich.segment import Segment
from textual import events
from textual.app import App, ComposeResult
from textual.filter import LineFilter
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from batchscope.terminal.frame import Frame, frame
from batchscope.terminal.lines import Line
from batchscope.terminal.session import Session
from batchscope.terminal.styles import Colors, style_of

TICK = 1.0
UNSEEN_TICK = 5.0
"""Seconds from one drawing to the next: while somebody looks, and while another window has the focus."""


class _Canvas(Widget):
    """The whole screen, drawn by lines."""

    DEFAULT_CSS = "_Canvas { width: 100%; height: 100%; background: ansi_default; }"

    def __init__(self, draw: Callable[[int, int], Frame], colors: Colors) -> None:
        super().__init__()
        self._draw, self._colors = draw, colors
        self.drawn = Frame([], {})

    def draw(self) -> None:
        """Draw anew; of the lines only those that changed go to the terminal."""
        before, self.drawn = self.drawn.lines, self._draw(self.size.width, self.size.height)
        if len(before) != len(self.drawn.lines):
            self.refresh()
            return
        changed = [place for place, line in enumerate(self.drawn.lines) if line != before[place]]
        if changed:
            self.refresh(*(Region(0, place, self.size.width, 1) for place in changed))

    def render_line(self, y: int) -> Strip:
        if y >= len(self.drawn.lines):
            return Strip.blank(self.size.width)
        return _strip(self.drawn.lines[y], self._colors)


def _strip(line: Line, colors: Colors) -> Strip:
    return Strip([Segment(text, style_of(role, colors)) for text, role in line])


class Top(App[Exception | None]):
    """``run()`` until the user ends it; gives the exception that ended it, with the terminal as it was."""

    CSS = "Screen { background: ansi_default; layers: base; }"
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, session: Session, colors: Colors, *, ascii_only: bool = False) -> None:
        super().__init__(ansi_color=True)
        self._session, self._ascii_only = session, ascii_only
        self._filters: list[LineFilter] = []  # NO_COLOR is a style path of our own: theirs turns red into dark grey
        self._canvas = _Canvas(self._frame, colors)
        self._tick = TICK

    def compose(self) -> ComposeResult:
        yield self._canvas

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGHUP, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError):  # another thread than the main one has no signals
                loop.add_signal_handler(name, self.exit)
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGINT, lambda: self._guarded(lambda: self._press("ctrl+c", None)))
        self._timer = self.set_interval(self._tick, self._look)
        self.call_after_refresh(self._look)
        self.set_timer(0.25, self._look)  # the first answers

    def _frame(self, width: int, height: int) -> Frame:
        return frame(self._session.scene(), self._session.viewing, width, height, ascii_only=self._ascii_only)

    def _look(self) -> None:
        self._guarded(self._session.update)
        self._guarded(self._canvas.draw)

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  (told once the terminal is as it was)
            self.exit(error)

    def on_resize(self) -> None:
        self.call_after_refresh(self._look)

    def on_key(self, event: events.Key) -> None:
        event.stop()
        if event.key == "ctrl+z":
            self.action_suspend_process()
        elif event.key == "ctrl+l":
            self.refresh(layout=True, repaint=True)
            self._canvas.refresh()
        else:
            self._guarded(lambda: self._press(event.key, event.character))

    def _press(self, key: str, character: str | None) -> None:
        if self._session.press(key, character):
            self._canvas.draw()
        else:
            self.exit()

    def on_click(self, event: events.Click) -> None:
        address = self._canvas.drawn.rows.get(event.y)
        if address is not None:
            self._session.select(address)
            self._guarded(self._canvas.draw)

    def on_mouse_scroll_down(self) -> None:
        self._scroll("down")

    def on_mouse_scroll_up(self) -> None:
        self._scroll("up")

    def _scroll(self, key: str) -> None:
        self._guarded(lambda: self._press(key, None))

    def on_app_blur(self) -> None:
        self._pace(UNSEEN_TICK)

    def on_app_focus(self) -> None:
        self._pace(TICK)
        self._look()

    def _pace(self, seconds: float) -> None:
        self._timer.stop()
        self._timer = self.set_interval(seconds, self._look)


def run(session: Session, colors: Colors, *, ascii_only: bool = False) -> None:
    """Show it until the user has seen enough; whatever ended it otherwise is raised once the terminal is restored."""
    session.start()
    try:
        ended = Top(session, colors, ascii_only=ascii_only).run()
    finally:
        session.close()
    if ended is not None:
        raise ended
