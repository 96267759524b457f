"""A command in a terminal of its own: what it writes is drawn by pyte, as a terminal would draw it."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time

import pyte

COLORS = re.compile(rb"\x1b\[([\d;:]*)m")


class Terminal:
    """``command`` in a pty; ``until`` reads until the screen shows something."""

    def __init__(self, command, columns=80, rows=24, **environment):
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self.code = None
        self.pid, self.fd = pty.fork()
        if not self.pid:
            kept = {
                name: value
                for name, value in os.environ.items()
                if name not in {"NO_COLOR", "COLORTERM", "COLUMNS", "LINES"}
            }
            with contextlib.suppress(OSError):
                os.execvpe(  # noqa: S606  (our own command, in a terminal of its own)
                    command[0], command, {**kept, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
                )
            os._exit(127)
        self.before = termios.tcgetattr(self.fd)
        self.resize(columns, rows)

    def resize(self, columns, rows):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def press(self, keys):
        os.write(self.fd, keys if isinstance(keys, bytes) else keys.encode())

    def read(self, seconds=0.05):
        """What comes within so many seconds; False at the end."""
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return False
            self.written += data
            # pyte takes for text what asks a terminal for its abilities (CSI ? ... $ p, CSI > ... u)
            self._stream.feed(re.sub(rb"\x1b\[[?>][\d;]*(\$p|u)", b"", data))
        return True

    def until(self, wanted, seconds=20.0):
        """Seconds until the screen shows ``wanted`` (a text, or a function of the screen's text)."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            shown = "\n".join(self.screen.display)
            if wanted(shown) if callable(wanted) else wanted in shown:
                return time.monotonic() - begin
            if not self.read():
                break
        raise AssertionError(f"{wanted!r} was not shown within {seconds} s:\n" + "\n".join(self.screen.display))

    def ended(self, seconds=10.0):
        """The exit code; the negative signal where one ended it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                while self.read(0.02) and select.select([self.fd], [], [], 0.02)[0]:
                    pass
                return self.code
        raise AssertionError("it has not ended:\n" + "\n".join(self.screen.display))

    def stopped(self, seconds=5.0):
        """Whether it was stopped, as Ctrl+Z does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid:
                return os.WIFSTOPPED(status)
        return False

    @property
    def restored(self):
        """Whether the terminal is as it was: modes, cursor, the main screen."""
        left = self.written.rfind(b"\x1b[?1049l") > self.written.rfind(b"\x1b[?1049h")
        cursor = self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l")
        mouse = self.written.rfind(b"\x1b[?1000l") > self.written.rfind(b"\x1b[?1000h")
        return left and cursor and mouse and termios.tcgetattr(self.fd)[:4] == self.before[:4]

    @property
    def colored(self):
        """Which SGR parameters that set a colour it has written."""
        codes = [re.sub(rb"([34]8);(?:5;\d+|2;\d+;\d+;\d+)", rb"\1", each) for each in COLORS.findall(self.written)]
        found = {int(one) for each in codes for one in each.split(b";") if one}
        return found & {*range(30, 39), *range(40, 49), *range(90, 98), *range(100, 108)}

    def close(self):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if self.code is None:
                os.kill(self.pid, 9)
                os.waitpid(self.pid, 0)
        with contextlib.suppress(OSError):
            os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
