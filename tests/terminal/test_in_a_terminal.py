"""``batchscope top`` in a real pseudo-terminal, drawn by pyte, and once in tmux: `make terminal`."""

import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import COMMAND, environment
from ptys import Terminal

pytestmark = pytest.mark.skipif(not os.environ.get("BATCHSCOPE_TERMINAL"), reason="it takes minutes: make terminal")

HERE = Path(__file__).parent
DEMO = [*COMMAND, "top", "--demo"]


@contextlib.contextmanager
def serving(port):
    """The demo's endpoint in a process of its own, on this port."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--demo", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL, env=environment(),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@contextlib.contextmanager
def fleet(*numbers):
    """The addresses of many simulated engines: how many, how many of them hang, how many are gone."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "fleet_server.py"), *map(str, numbers)], stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(process.stdout.readline())
        yield [f"http://127.0.0.1:{port}/e{number}/metrics" for number in range(numbers[0])]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_the_first_line_of_a_screen_of_80x24_is_the_verdict_and_q_leaves_the_terminal_as_it_was():
    with Terminal(DEMO) as terminal:
        terminal.until("● LIVE  Batch")
        terminal.until("of a core, every 1 s")
        assert terminal.screen.display[0].startswith(" ● LIVE  Batch")
        assert any(line.startswith("held by") for line in terminal.screen.display)
        terminal.press("q")
        assert terminal.ended() == 0
        assert terminal.restored


def test_the_demo_has_it_too():
    with Terminal([*COMMAND, "demo", "--top", "--max-running-requests", "32"]) as terminal:
        terminal.until("of 32 running")
        terminal.press(b"\x03")
        assert terminal.ended() == 130
        assert terminal.restored


@pytest.mark.parametrize(
    ("given", "colors"),
    [
        ({"NO_COLOR": "1"}, set()),
        ({"TERM": "vt100"}, set()),
        ({"TERM": "xterm"}, {30, 97, 41, 44, 45, 100, 101, 102, 103, 105, 106, 107, 47}),
        ({"TERM": "xterm-256color"}, {38, 48}),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, {38, 48}),
    ],
)
def test_it_writes_only_the_colours_that_a_terminal_has_and_none_where_none_are_wanted(given, colors):
    with Terminal(DEMO, **given) as terminal:
        terminal.until("LIVE  Batch")
        terminal.until("T", 5.0)
        terminal.press("q")
        terminal.ended()
        assert terminal.colored <= colors
        assert bool(terminal.colored) == bool(colors)
        assert terminal.restored


def test_it_follows_the_size_of_the_terminal_and_says_where_it_is_too_small():
    with Terminal(DEMO) as terminal:
        terminal.until("LIVE  Batch")
        terminal.resize(120, 40)
        terminal.until(lambda text: "q quit" in text.splitlines()[39] and len(text.splitlines()[39].rstrip()) > 100)
        terminal.resize(50, 10)
        terminal.until("batchscope top needs 60x12; this is 50x10")
        terminal.resize(80, 24)
        terminal.until(lambda text: "q quit" in text.splitlines()[23])
        terminal.press("q")
        assert terminal.ended() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_a_signal_to_end_leaves_the_terminal_as_it_was(number, code):
    with Terminal(DEMO) as terminal:
        terminal.until("LIVE  Batch")
        os.kill(terminal.pid, number)
        assert terminal.ended() == code
        assert terminal.restored


def test_it_ends_with_its_terminal():
    with Terminal(DEMO) as terminal:
        terminal.until("LIVE  Batch")
        os.close(terminal.fd)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            pid, _ = os.waitpid(terminal.pid, os.WNOHANG)
            if pid:
                terminal.code = 0
                return
            time.sleep(0.05)
        raise AssertionError("it goes on without a terminal")


def test_it_is_stopped_by_control_z_and_comes_back():
    with Terminal(DEMO) as terminal:
        terminal.until("LIVE  Batch")
        terminal.press(b"\x1a")
        assert terminal.stopped()
        assert terminal.restored
        terminal.screen.reset()
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.until("LIVE  Batch")
        terminal.press("q")
        assert terminal.ended() == 0
        assert terminal.restored


def test_whatever_goes_wrong_the_terminal_is_restored_and_the_error_told():
    script = (
        "import sys; from batchscope.terminal import session, app; from batchscope.cli import run\n"
        "def broken(self):\n"
        "    if self.engines[0].last is not None: raise RuntimeError('of the drawing')\n"
        "    return old(self)\n"
        "old = session.Session.scene; session.Session.scene = broken; sys.exit(run(['top', '--demo']))"
    )
    with Terminal([sys.executable, "-c", script]) as terminal:
        assert terminal.ended(30.0) == 1
        assert terminal.restored
        assert b"RuntimeError: of the drawing" in terminal.written


def test_a_server_that_hangs_or_ends_is_seen_within_three_seconds_and_when_it_is_back_too():
    port = free_port()
    with Terminal([*COMMAND, "top", f"http://127.0.0.1:{port}"], columns=100) as terminal:
        terminal.until("DOWN  No figures yet")
        with serving(port) as server:
            terminal.until("LIVE  Batch", 40.0)
            time.sleep(3)
            server.send_signal(signal.SIGSTOP)
            assert terminal.until("NOT LIVE: everything below is") <= 4.0
            assert "STALE" in terminal.screen.display[0]
            server.send_signal(signal.SIGCONT)
            assert terminal.until(lambda text: "NOT LIVE" not in text and "LIVE  Batch" in text) <= 4.0
            assert any("/" in line for line in terminal.screen.display if line.startswith("held by"))
            server.kill()
            server.wait()
            assert terminal.until("GONE  Gone: nobody answers any more") <= 4.0
        with serving(port):
            terminal.until("RESTARTED  Restarted", 40.0)
            terminal.until(" ● LIVE ", 12.0)
        terminal.press("q")
        assert terminal.ended() == 0


def test_of_200_engines_20_hang_and_the_others_and_the_keys_do_not_wait():
    with fleet(200, 20) as urls, Terminal([*COMMAND, "top", *urls, "--interval", "5"], 120, 40) as terminal:
        terminal.until("20 down", 60.0)
        took = terminal.until(
            lambda text: "180 live" in text.replace(" idle", " live") or _answering(text) == 180, 20.0
        )
        assert took < 20.0
        waited = []
        for _ in range(20):
            begin = time.monotonic()
            terminal.press("?")
            terminal.until("these keys", 5.0)
            waited.append(time.monotonic() - begin)
            terminal.press("?")
            terminal.until(lambda text: "these keys" not in text, 5.0)
        assert statistics.median(waited) < 0.1
        terminal.press("q")
        assert terminal.ended() == 0


def _answering(text):
    """How many engines answer, by the first line's own words."""
    words = text.split(". ")[0].replace(",", "").split()
    return sum(int(number) for number, state in zip(words, words[1:], strict=False)
               if number.isdigit() and state in {"live", "idle", "starting"})  # fmt: skip


def test_while_another_window_has_the_focus_it_draws_every_five_seconds():
    def drawings(seconds):
        """How often the clock changed within so many seconds."""
        begin, seen = time.monotonic(), set()
        while time.monotonic() - begin < seconds:
            terminal.read()
            seen |= set(re.findall(r"\d\d:\d\d:\d\d UTC", "\n".join(terminal.screen.display)))
        return len(seen) - 1

    with Terminal(DEMO, TZ="UTC") as terminal:
        terminal.until("● LIVE  Batch")
        terminal.press(b"\x1b[O")
        terminal.read(1.0)
        assert drawings(4.0) <= 1
        terminal.press(b"\x1b[I")
        terminal.read(0.5)
        assert drawings(4.0) >= 2


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_in_tmux_it_is_drawn_the_same_and_the_screen_before_comes_back(tmp_path):
    tmux = ["tmux", "-S", str(tmp_path / "socket"), "-f", os.devnull]

    def keys(*which):
        subprocess.run([*tmux, "send-keys", *which], check=True)

    def shown():
        return subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout

    def until(wanted, seconds=30.0):
        end = time.monotonic() + seconds
        while wanted not in shown():
            assert time.monotonic() < end, shown()
            time.sleep(0.1)

    subprocess.run([*tmux, "new-session", "-d", "-x", "80", "-y", "24", "sh"], check=True)
    try:
        keys("echo before; " + " ".join(DEMO), "Enter")
        until("LIVE  Batch")
        until("held by")
        lines = shown().splitlines()
        assert lines[0].startswith(" ● LIVE  Batch")
        assert lines[23].startswith(" q quit  ? keys")
        assert all(len(line) <= 80 for line in lines)
        keys("q")
        until("before\n")
        assert "LIVE" not in shown()
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
