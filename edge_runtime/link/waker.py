"""Lets any thread end another thread's `poll`."""

from __future__ import annotations

import socket
import threading


class Waker:
    """One pair of sockets; however often it is set, one byte waits."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._lock = threading.Lock()
        self._is_set = False
        self._closed = False

    def fileno(self) -> int:
        """What `poll` watches for reading."""
        return self._reader.fileno()

    def set(self) -> None:
        """End the current `poll`, or the next one; nothing once closed."""
        with self._lock:
            if not self._is_set and not self._closed:
                self._is_set = True
                self._writer.send(b"\0")

    def clear(self) -> None:
        """Call this before looking for work, so that no wake-up is lost."""
        with self._lock:
            if self._is_set:
                self._is_set = False
                self._reader.recv(1)

    def close(self) -> None:
        """Free the descriptors."""
        with self._lock:
            self._closed = True
            self._reader.close()
            self._writer.close()
