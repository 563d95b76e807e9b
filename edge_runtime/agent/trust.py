"""Trust as the supervisor has it: one question at a time, put to a notary beside it.

With trust "none" there is nothing to ask. With "tuf" a notary process follows the signed metadata;
what it needs from the broker is fetched here, by exact topic, and handed down. An answer that comes
after it was called off goes nowhere. A notary that dies has said nothing: that is the device's
fault, not the bundle's, and the update waits.
"""

from __future__ import annotations

import base64
import logging
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from edge_runtime.agent.channel import Channel, ChannelClosed
from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.order import Question
from edge_runtime.errors import (
    DeviceError,
    EdgeError,
    MetadataError,
    TransferError,
    UntrustedError,
)
from edge_runtime.link import Message
from edge_runtime.link.metadata import Asking
from edge_runtime.messages.fleet import Release
from edge_runtime.messages.worker import Frame, Given, Need, Verdict

log = logging.getLogger(__name__)

KINDS: dict[str, type[EdgeError]] = {
    "untrusted": UntrustedError,
    "metadata": MetadataError,
    "transfer": TransferError,
    "device": DeviceError,
}
END_S = 5.0

OnAnswer = Callable[[str, EdgeError | None], None]
"""Called with the manifest's digest, and why the release is not to be believed, if so."""


class Trust:
    """Of one supervisor; called from its one thread.

    `asking` reaches the broker, once there is a link.
    """

    def __init__(
        self, config: AgentConfig, selector: selectors.BaseSelector, on_answer: OnAnswer
    ) -> None:
        self.asking: Asking | None = None
        self.connected = False
        self._config = config
        self._selector = selector
        self._on_answer = on_answer
        self._digest = ""
        self._beside: str | None = None
        self._unanswered = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    @property
    def pid(self) -> int | None:
        """Of the notary, while there is one."""
        return self._process.pid if self._process is not None else None

    def beside(self, repository: str | None) -> None:
        """The URL of a repository that a person brought a bundle in: asked before the others."""
        self._beside = repository

    def authenticate(self, release: Release) -> None:
        """Begin; the answer to an earlier question is wanted no more."""
        self.stop()
        self._digest = release.manifest.sha256
        if self._config.trust == "none":
            self._answer(None)
            return
        try:
            self._start(release)
        except OSError as reason:
            self._answer(DeviceError(f"notary cannot be started ({reason.strerror})"))

    def _start(self, release: Release) -> None:
        c = self._config
        ours, theirs = socket.socketpair()
        try:
            question = Question(
                control=theirs.fileno(),
                folder=str(c.state_dir / "trust"),
                root=str(c.root),
                release=release.as_json(),
                sources=self._sources(),
                supervisor=os.getpid(),
                budget_s=c.update.authenticate_timeout_s / (len(c.sources) + 2),
                ca=str(c.sources_ca) if c.sources_ca else None,
            )
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.agent.notary", question.to_argument()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(ours)
        self._selector.register(self._channel, selectors.EVENT_READ, self._on_channel)
        log.info("asking who signed it", extra={"manifest": self._digest[:12], "pid": self.pid})

    def _sources(self) -> tuple[str, ...]:
        """In their order, but for one at which the last question came to nothing."""
        given = tuple(dict.fromkeys(filter(None, (self._beside, *self._config.sources))))
        begin = self._unanswered % len(given) if given else 0
        return given[begin:] + given[:begin]

    def heard(self, message: Message) -> None:
        """A file of the repository's metadata has come from the broker."""
        if self.asking is not None:
            self.asking.heard(message, time.monotonic())

    def tick(self, now_s: float) -> float | None:
        """Do what is due; when to call again at the latest."""
        return self.asking.tick(now_s) if self.asking is not None else None

    def stop(self) -> None:
        """No answer is wanted any more; the notary is gone when this returns."""
        # A source that neither answers nor fails must not keep the others from being asked.
        self._unanswered += bool(self._digest and self._process is not None)
        self._digest = ""
        if self.asking is not None:
            self.asking.stop()
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None
        if self._process is not None:
            # It writes whole files only, so it may be killed at any time.
            self._process.kill()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                log.error("notary does not end, not even killed", extra={"pid": self.pid})
            self._process = None

    def _on_channel(self, _mask: int) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            for frame, _ in channel.receive():
                self._on_frame(frame)
                if self._channel is not channel:
                    return
        except ChannelClosed as reason:
            why = str(reason) or "it ended without a word"
            self._answer(DeviceError(f"notary: {why}"))

    def _on_frame(self, frame: Frame) -> None:
        match frame:
            case Need():
                self._fetch(frame)
            case Verdict():
                error = None if frame.outcome == "signed" else KINDS[frame.outcome]
                log.info(
                    "signed metadata",
                    extra={
                        "outcome": frame.outcome,
                        "root": frame.root_version,
                        "timestamp": frame.timestamp_version,
                        "trusted_s": int(frame.trusted_s),
                    },
                )
                self._answer(error(frame.reason) if error is not None else None)
            case _:
                self._answer(DeviceError(f"notary: said {type(frame).__name__}"))

    def _fetch(self, need: Need) -> None:
        """From the broker; an answer for a notary that is gone goes nowhere."""
        channel = self._channel

        def give(given: Given) -> None:
            if channel is not None and self._channel is channel:
                try:
                    channel.send(given)
                except ChannelClosed as reason:
                    self._answer(DeviceError(f"notary: {reason}"))

        def found(data: bytes | None) -> None:
            # One byte too many says as much as all of them.
            cut = None if data is None else data[: need.max_bytes + 1]
            give(Given(None if cut is None else base64.b64encode(cut).decode("ascii")))

        if self.asking is None or not self.connected:
            give(Given(None, f"{need.name}: the broker is not connected"))
        else:
            self.asking.ask(need.name, found, lambda why: give(Given(None, why)), time.monotonic())

    def _answer(self, refusal: EdgeError | None) -> None:
        digest, self._digest = self._digest, ""
        self._unanswered = 0
        self.stop()
        if digest:
            self._on_answer(digest, refusal)
