"""Every place where bytes from outside become a value, in one table: name → function of bytes.

`PARSERS` do what the product does with such bytes, raise its errors, and check on the way what must
hold of a value that was accepted: above all that it comes back the same when it is written again.
`TARGETS` are the same for a fuzzer: an error of ours, in one short sentence, is a good end; all
else that is raised is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_runtime.errors import EdgeError
from tests.hostile import parse_bundles, parse_files, parse_messages, parse_peers, promises
from tests.hostile.promises import MAX_SENTENCE

Parser = Callable[[bytes], object]

MAX_SENTENCES: Mapping[str, int] = {
    "profile": 20_000,
    "config": 20_000,
    "fleet-settings": 20_000,
    "metadata": 4500,
}
"""Where all faults of a file are told at once, or a library's own words are."""
FLEET = (
    "Release", "Desired", "Reported", "Online", "Telemetry", "Event", "InferRequest", "InferResult",
)  # fmt: skip
PARSERS: dict[str, Parser] = {
    "manifest": parse_bundles.manifest,
    "container": parse_bundles.container,
    "archive": parse_bundles.archive,
    "chunk-list": parse_bundles.chunk_list,
    "delta-index": parse_bundles.delta_index,
    "delta-piece": parse_bundles.delta_piece,
    **{kind.lower(): parse_messages.message(kind) for kind in FLEET},
    "token": parse_messages.token,
    "enroll-request": parse_messages.enrolling("EnrollRequest"),
    "enroll-answer": parse_messages.enrolling("EnrollAnswer"),
    "frame": parse_messages.frame,
    "topic": parse_messages.topic,
    "profile": parse_files.profile,
    "config": parse_files.config,
    "broker-url": parse_files.broker_url,
    "source-url": parse_files.source_url,
    "infer-lines": parse_files.infer_lines,
    "picture": parse_files.picture,
    "sound": parse_files.sound,
    "fleet-settings": parse_files.fleet_settings,
    "certificates": parse_files.certificates,
    "install": parse_files.install,
    "journal": parse_files.journal,
    "time-floor": parse_files.time_floor,
    "spool": parse_files.spool,
    "slot": parse_files.slot,
    "onnx": parse_bundles.onnx_model,
    "golden": parse_bundles.golden,
    "tokenizer": parse_bundles.tokenizer,
    "infer-body": parse_peers.infer_body,
    "request-path": parse_peers.request_path,
    "http-connection": parse_peers.http_connection,
    "web-answer": parse_peers.web_answer,
    "broker-packets": parse_peers.broker_packets,
    "metadata": parse_peers.metadata,
}


def check_sentence(name: str, sentence: str) -> None:
    """Hold an error of the parser `name` to what a person may be shown."""
    promises.check_sentence(sentence, MAX_SENTENCES.get(name, MAX_SENTENCE))


def target(name: str) -> Callable[[bytes], None]:
    """For a fuzzer: raises nothing but findings."""

    def run(data: bytes) -> None:
        try:
            PARSERS[name](data)
        except EdgeError as reason:
            check_sentence(name, str(reason))

    return run


TARGETS: dict[str, Callable[[bytes], None]] = {name: target(name) for name in PARSERS}
