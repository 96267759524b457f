"""SnapshotSocket: what many processes send over a Unix socket, read as one."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import stat
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from batchscope.clock import Clock
from batchscope.errors import ConfigurationError
from batchscope.publishing.files import usable_path
from batchscope.publishing.frame import FOREIGN, FrameError
from batchscope.publishing.peer import Peer
from batchscope.publishing.publication import Publication, decode
from batchscope.publishing.reader import FleetReader
from batchscope.publishing.socket_writer import checked_path

MOST_PEERS = 256
MOST_MEMBERS = 1024
MOST_BUFFERED = 64 * 2**20
CROWD = "crowd"
_TICK = 1.0


class SnapshotSocket(FleetReader):
    """Listens on ``path`` (mode 0600) for ``SnapshotPublisher(source, "unix:" + path)`` and merges what comes.

    The same liveness and counting as ``SnapshotDirectory``; but the counts of the dead are in memory only: they
    end with this reader. A socket file that nobody listens on is replaced; ConfigurationError for one that
    somebody does, for another kind of file and for a path the kernel does not take. Peers cannot hurt: at most
    256 connections, 64 MiB in all, a message within ``timeout`` seconds, one instance a connection; who breaks
    that or sends garbage is disconnected, counted in ``skipped`` and logged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dead_after: float = 10.0,
        max_age: float = 0.25,
        timeout: float = 10.0,
        labels: Mapping[str, str] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(dead_after, max_age, clock, labels)
        self._path = checked_path(usable_path("path", path))
        self._timeout = timeout
        self._peers: dict[int, Peer] = {}
        self._listener = _listening(self._path)
        status = Path(self._path).stat()
        self._inode = (status.st_dev, status.st_ino)
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="batchscope-socket", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the socket file; the last merge stays readable. It can be called again."""
        if self._closed or self._thread is None:
            return
        self.get_snapshot()
        super().close()
        self._wake.close()
        self._thread.join(5.0)
        with contextlib.suppress(OSError):
            status = Path(self._path).stat()
            if (status.st_dev, status.st_ino) == self._inode:
                Path(self._path).unlink()

    def _refresh(self, now: float) -> None:
        """Fold the dead, in memory."""
        gone = [member.publication for member in self._members.gone(now)]
        if gone:
            connected = {peer.instance for peer in list(self._peers.values())}
            held = self._members.archive.with_gone(gone, connected)
            self._members.update([(member.publication, False) for member in self._members], held, now)

    def _received(self, publication: Publication) -> int:
        """Count a publication; the answer: 0, or up to where its process's counts are held for good."""
        with self._lock:
            now = self._clock()
            held = self._members.archive.header.sequence(publication.instance)
            if publication.base < held:
                return held if publication.sequence > held else 0
            if len(self._members) >= MOST_MEMBERS:
                raise FrameError(CROWD, f"{MOST_MEMBERS} instances already: raise the publishers' interval")
            known = [(member.publication, False) for member in self._members]
            self._members.update([*known, (publication, False)], self._members.archive, now)
            return 0

    # The thread.

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(_TICK):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, Peer):
                    self._serve(key.data)
            with self._lock:
                self._refresh(self._clock())
            for peer in [peer for peer in self._peers.values() if peer.late(time.monotonic(), self._timeout)]:
                self._drop(peer, "slow", f"a message was not complete after {self._timeout} s")
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._selector.close()
        self._listener.close()
        self._woken.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it may have gone again; or there are no descriptors left
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            peer = Peer(connection)
            self._peers[id(peer)] = peer
            self._selector.register(connection, selectors.EVENT_READ, peer)
            if len(self._peers) > MOST_PEERS:
                self._drop(peer, CROWD, f"{MOST_PEERS} connections already")

    def _serve(self, peer: Peer) -> None:
        try:
            for frame in peer.frames(time.monotonic()):
                peer.answer(self._received(_checked(peer, decode(frame))))
            self._check_room()
        except FrameError as error:
            self._drop(peer, error.reason, error)
        except OSError:
            self._drop(peer)

    def _check_room(self) -> None:
        if sum(len(peer.buffer) for peer in self._peers.values()) > MOST_BUFFERED:
            raise FrameError(CROWD, f"{MOST_BUFFERED} bytes are waiting already")

    def _drop(self, peer: Peer, reason: str = "", why: object = "") -> None:
        if reason:
            self._skips.skip(f"{self._path} peer {peer.instance or id(peer)}", reason, why)
            self._untold.tell()
        self._peers.pop(id(peer), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer.connection)
        peer.connection.close()

    def _after_fork(self) -> None:
        """In the child there is no thread; the socket is the parent's."""
        super()._after_fork()
        self._closed, self._thread = True, None


def _checked(peer: Peer, publication: Publication) -> Publication:
    if peer.instance not in {"", publication.instance}:
        raise FrameError(FOREIGN, f"instance {publication.instance!r}: expected {peer.instance!r}, as before")
    peer.instance = publication.instance
    return publication


def _listening(path: str) -> socket.socket:
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before bind: Linux makes the file with this mode (unix_bind)
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen(MOST_PEERS)
    except OSError as error:
        listener.close()
        raise ConfigurationError("path", path, f"a path where a socket can be made ({error})") from error
    listener.setblocking(False)
    return listener


def _make_way(path: str) -> None:
    """Remove the socket file of a reader that is gone."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise ConfigurationError("path", path, "a new path, or a socket: this is another kind of file")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
    except OSError as error:
        raise ConfigurationError("path", path, f"a path where a socket can be made ({error})") from error
    else:
        raise ConfigurationError("path", path, "a path that no other reader listens on")
