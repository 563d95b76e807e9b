"""The Open Inference Protocol v2 over a pipeline: a method, a path and a body to an answer.

It knows HTTP's vocabulary and no socket. A task takes BYTES tensors of its own names (a text task
"text", a picture task "image", base64 of a file) and answers with the task's own tensors; whoever
sends the model's own input tensors gets the model's own outputs. Errors are
`{"error": "one sentence"}`.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote

import numpy as np

from edge_runtime.agent.serving import Busy, Serving
from edge_runtime.agent.tensors import (
    MAX_TENSORS,
    describe,
    read_strings,
    read_tensor,
    write_tensor,
    write_texts,
)
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fields import Fields, Json, decode_json
from edge_runtime.inference.tasks.results import (
    Anomaly,
    Boxes,
    Classification,
    Embedding,
    Mask,
    Raw,
    Result,
    Spans,
    Values,
)
from edge_runtime.inference.tasks.sent import raw_of
from edge_runtime.inference.tasks.table import INPUTS
from edge_runtime.text import json_line, plain

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
MAX_SHOWN = 200
"""Of a path, in an error."""


@dataclass(frozen=True, slots=True)
class Request:
    """What HTTP is left with once it was read and its limits were checked."""

    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """A status, a JSON body, and headers beyond the usual."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def reply(value: Json, status: int = 200, **headers: str) -> Response:
    """`value` as an answer; an underscore in a header's name stands for a hyphen."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, text.encode("utf-8", "replace"), names)


def error(status: int, sentence: str, **headers: str) -> Response:
    """An error as the protocol words it."""
    return reply({"error": sentence}, status, **headers)


class OpenInference:
    """Answers requests. Callable from any thread."""

    def __init__(self, serving: Serving, server_version: str, max_body_bytes: int) -> None:
        self._serving = serving
        self._server_version = server_version
        self._max_body_bytes = max_body_bytes
        m = serving.pipeline.manifest
        self._name, self._version = m.name, m.version
        self._routes: list[tuple[str, str, Callable[[Request], Response]]] = [
            ("GET", r"/v2", self._server),
            ("GET", r"/v2/health/live", lambda _: reply({"live": True})),
            ("GET", r"/v2/health/ready", lambda _: reply({"live": True, "ready": True})),
            ("GET", r"/v2/models/([^/]+)(?:/versions/([^/]+))?", self._model),
            ("GET", r"/v2/models/([^/]+)(?:/versions/([^/]+))?/ready", self._model_ready),
            ("POST", r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer", self._infer),
        ]

    def __call__(self, request: Request) -> Response:
        """The answer, whatever was asked."""
        path = request.path.partition("?")[0].rstrip("/") or "/"
        for method, pattern, act in self._routes:
            match = re.fullmatch(pattern, path)
            if match is None:
                continue
            if request.method != method and (request.method, method) != ("HEAD", "GET"):
                asked = plain(f"{request.method} is not allowed on {path}", MAX_SHOWN)
                return error(405, f"{asked}, expected {method}", Allow=method)
            unknown = self._unknown_model(match.groups())
            return error(404, unknown) if unknown else self._guarded(act, request)
        return error(404, f"no such path: {plain(path, MAX_SHOWN)}; the API starts at /v2")

    def _unknown_model(self, groups: Sequence[str | None]) -> str:
        """Why the model of a path is not served here, or nothing."""
        if not groups:
            return ""
        name, version = (unquote(group) if group else None for group in groups)
        if name != self._name:
            return f"model {str(name)[:80]!r} is not served here, {self._name!r} is"
        if version is not None and version != self._version:
            return (
                f"version {version[:80]!r} of model {self._name} is not served here, "
                f"{self._version!r} is"
            )
        return ""

    def _guarded(self, act: Callable[[Request], Response], request: Request) -> Response:
        try:
            return act(request)
        except InputError as reason:
            return error(400, str(reason))
        except Busy as reason:
            return error(503, str(reason), Retry_After=str(RETRY_AFTER_S))
        except EdgeError as reason:
            log.error("inference failed: %s", reason)
            return error(500, str(reason))
        except Exception:
            log.exception("inference failed")
            return error(500, "the engine failed; the device's log says more")

    def _server(self, _: Request) -> Response:
        return reply({"name": "edge-agent", "version": self._server_version, "extensions": []})

    def _model(self, _: Request) -> Response:
        pipeline = self._serving.pipeline
        manifest, task = pipeline.manifest, pipeline.task
        return reply(
            {
                "name": self._name,
                "versions": [self._version],
                "platform": pipeline.variant.backend,
                "inputs": [describe(spec) for spec in INPUTS[pipeline.takes]],
                "outputs": [describe(spec) for spec in task.outputs],
                "parameters": {
                    "task": manifest.task,
                    "variant": pipeline.variant.id,
                    "tensor_inputs": [describe(spec) for spec in manifest.inputs],
                    "tensor_outputs": [describe(spec) for spec in manifest.outputs],
                },
            }
        )

    def _model_ready(self, _: Request) -> Response:
        return reply({"name": self._name, "ready": True})

    def _infer(self, request: Request) -> Response:
        value = decode_json(
            request.body, max_bytes=self._max_body_bytes, where="request", error=InputError
        )
        f = Fields(value, "request", InputError)
        answer: dict[str, Json] = {"model_name": self._name, "model_version": self._version}
        if f.present("id"):
            answer["id"] = f.text("id")
        inputs = {
            tensor.text("name"): tensor
            for tensor in f.objects("inputs", max_items=MAX_TENSORS, min_items=1)
        }
        if len(inputs) != len(f.items("inputs")):
            raise InputError("request: two inputs share a name")
        wanted = [o.text("name") for o in f.objects("outputs", (), max_items=MAX_TENSORS)]
        outputs = self._outputs(inputs)
        known = {str(output["name"]): output for output in outputs}
        for name in wanted:
            if name not in known:
                raise InputError(
                    f"request: output {name!r} is not known, there are {', '.join(known)}"
                )
        answer["outputs"] = [known[name] for name in wanted] if wanted else outputs
        return reply(answer)

    def _outputs(self, inputs: Mapping[str, Fields]) -> list[dict[str, Json]]:
        pipeline = self._serving.pipeline
        takes = pipeline.takes
        own = [spec.name for spec in INPUTS[takes]]
        if own and sorted(inputs) == sorted(own):
            columns = [read_strings(inputs[name]) for name in own]
            return write_results(self._serving.answers(_raws(columns, own, takes)))
        tensors = {spec.name for spec in pipeline.manifest.inputs}
        for name, f in inputs.items():
            if name not in tensors and name not in own:
                others = f"{', '.join(own)}, or the tensors " if own else ""
                raise InputError(
                    f"{f.where}: input {name!r} is not known, the model takes "
                    f"{others}{', '.join(sorted(tensors))}"
                )
        if mixed := sorted(set(own) & set(inputs) - tensors):
            rest = ", ".join(name for name in inputs if name not in mixed)
            if not rest:
                raise InputError(f"request: the task takes {' and '.join(own)}, found {mixed[0]}")
            raise InputError(
                f"request: input {mixed[0]} stands alone, found {rest} beside it: "
                f"send {takes}s or tensors"
            )
        values = self._serving.tensors({name: read_tensor(f) for name, f in inputs.items()})
        return [write_tensor(name, value) for name, value in values.items()]


def _raws(columns: Sequence[Sequence[str]], names: Sequence[str], takes: str) -> list[Raw]:
    """Strings of the protocol as the task's inputs."""
    if len({len(column) for column in columns}) != 1:
        sizes = " and ".join(str(len(column)) for column in columns)
        raise InputError(f"request: {' and '.join(names)} hold {sizes} elements, expected as many")
    if takes == "row":
        limit = sum(map(len, columns[0])) * 4 + 1
        return [
            raw_of(
                decode_json(
                    text.encode(), max_bytes=limit, where=f"request: row {at}", error=InputError
                ),
                takes,
            )
            for at, text in enumerate(columns[0])
        ]
    if len(columns) == 1:
        return [raw_of(value, takes) for value in columns[0]]
    return list(zip(*columns, strict=True))


def write_results(results: Sequence[Result]) -> list[dict[str, Json]]:
    """A task's results as output tensors.

    Classification: label and score, [n]; labels and scores, [n, k], the likeliest first.
    Embedding: embedding, [n, dimensions]. Both: truncated, [n]. Values: values, [n, names], and
    names, [names]. Anomaly: score and anomalous, [n]. Spans, boxes and masks: a JSON object each,
    [n], because no two have the same size.
    """
    first, rows = results[0], len(results)
    if isinstance(first, Classification):
        found = [cast(Classification, r) for r in results]
        scores = np.array([[score for _, score in r.scores] for r in found], dtype=np.float32)
        ranked = [rows, len(first.scores)]
        return [
            write_texts("label", [rows], [r.label for r in found]),
            write_tensor("score", np.array([r.score for r in found], dtype=np.float32)),
            write_texts("labels", ranked, [label for r in found for label, _ in r.scores]),
            write_tensor("scores", scores),
            _truncated([r.truncated for r in found]),
        ]
    if isinstance(first, Embedding):
        vectors = [cast(Embedding, r) for r in results]
        return [
            write_tensor("embedding", np.stack([r.vector for r in vectors])),
            _truncated([r.truncated for r in vectors]),
        ]
    if isinstance(first, Values):
        values = [list(cast(Values, r).values.values()) for r in results]
        return [
            write_tensor("values", np.array(values, dtype=np.float32)),
            write_texts("names", [len(first.values)], list(first.values)),
        ]
    if isinstance(first, Anomaly):
        strange = [cast(Anomaly, r) for r in results]
        return [
            write_tensor("score", np.array([r.score for r in strange], dtype=np.float32)),
            write_tensor("anomalous", np.array([r.anomalous for r in strange], dtype=np.bool_)),
        ]
    name = {Spans: "spans", Boxes: "boxes", Mask: "mask"}[type(first)]
    return [write_texts(name, [rows], [json_line(result.as_json()) for result in results])]


def _truncated(rows: Sequence[bool]) -> dict[str, Json]:
    return write_tensor("truncated", np.array(rows, dtype=np.bool_))
