"""The supervisor's end of a worker's socket pair: frames and descriptors, never blocking.

A worker that does not read must not hold the supervisor up, so what does not fit the socket waits
here, up to a bound. What a worker sends is read with the same care as a stranger's: anything that
is not a frame ends the channel.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator

from edge_runtime.errors import UntrustedError
from edge_runtime.messages.worker import Connection, Frame, FrameReader, to_frame

READ_BYTES = 256 << 10
MAX_DESCRIPTORS = 32
MAX_WAITING_BYTES = 16 << 20


class ChannelClosed(Exception):
    """The other end is gone, or (with a reason) it does not read or speak our language."""


class Channel:
    """Frames out and in. An arriving `Connection` is handed out with its descriptor.

    `received_bytes` grows with whatever arrives, also before a frame is whole.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = FrameReader()
        self._descriptors: deque[int] = deque()
        self._out: deque[tuple[memoryview, int | None]] = deque()
        self._waiting_bytes = 0
        self.received_bytes = 0

    def fileno(self) -> int:
        """For a selector."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether frames wait for room in the socket."""
        return bool(self._out)

    def send(self, frame: Frame, descriptor: int | None = None) -> None:
        """Send `frame`, now or later; `descriptor` is closed here once it was passed on.

        Raises:
            ChannelClosed: the other end is gone, or has not read for too long.
        """
        data = to_frame(frame)
        self._waiting_bytes += len(data)
        self._out.append((memoryview(data), descriptor))
        if self._waiting_bytes > MAX_WAITING_BYTES:
            raise ChannelClosed("the worker does not read what it is sent")
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes.

        Raises:
            ChannelClosed: the other end is gone.
        """
        while self._out:
            data, descriptor = self._out[0]
            try:
                if descriptor is None:
                    sent = self._sock.send(data)
                else:
                    sent = socket.send_fds(self._sock, [data], [descriptor])
                    os.close(descriptor)
            except BlockingIOError:
                return
            except OSError as reason:
                raise ChannelClosed(f"control socket: {reason.strerror}") from None
            self._waiting_bytes -= sent
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], None)

    def receive(self) -> Iterator[tuple[Frame, int | None]]:
        """Frames that have arrived; a `Connection` with its descriptor, which is the caller's now.

        Raises:
            ChannelClosed: after the last whole frame of a worker that is gone; or no frame.
        """
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                self._sock, READ_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError as reason:
            raise ChannelClosed(f"control socket: {reason.strerror}") from None
        self._descriptors.extend(descriptors)
        if flags & socket.MSG_CTRUNC:
            raise ChannelClosed("the worker sent more descriptors than one message may carry")
        if not data:
            raise ChannelClosed
        self.received_bytes += len(data)
        try:
            for frame in self._reader.feed(data):
                if not isinstance(frame, Connection):
                    yield frame, None
                elif self._descriptors:
                    yield frame, self._descriptors.popleft()
                else:
                    raise UntrustedError("frame: a Connection without a descriptor")
        except UntrustedError as reason:
            raise ChannelClosed(str(reason)) from None

    def close(self) -> None:
        """Close the socket, and every descriptor that was not passed on."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        for _, waiting in self._out:
            if waiting is not None:
                os.close(waiting)
        self._descriptors.clear()
        self._out.clear()
        self._sock.close()
