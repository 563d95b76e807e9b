"""The contract across architectures: the golden vectors, answered by the board and by this host.

The tensors go to the board over its HTTP API, and to the same variant of the same bundle in the
same engine here. Each answer is held against the float reference, which x86-64 made, by the
bundle's own measure and floor; how far the two INT8 answers are apart says what the architecture
alone does.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import DeviceError
from edge_runtime.fields import Json
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.golden import Case, load_golden, worst
from edge_runtime.inference.pipeline import Pipeline
from tests.board.whole.bundles import Made

ANSWER_S = 300.0
DTYPES = {"float32": "FP32", "int64": "INT64", "int32": "INT32"}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of all golden cases: the lowest value on either side, and the largest gap of their outputs.

    `gap` is in units of the largest output of the case.
    """

    variant: str
    metric: str
    floor: float
    cases: int
    board: float
    host: float
    gap: float

    @property
    def broken(self) -> list[str]:
        """What is untrue that must be true: of the board. A host may fail where a board does not:
        x86-64 without VNNI saturates in what some INT8 models add up.
        """
        if self.board >= self.floor:
            return []
        value = f"{self.metric} {self.board:.4f}"
        return [f"{self.variant} on the board: {value}, at least {self.floor} is needed"]


def agreement(made: Made, port: int) -> Agreement:
    """Ask both; `port` is where the board's API is reached.

    Raises:
        DeviceError: the board does not answer, or not with a model's answer.
    """
    (variant,) = made.manifest.variants
    cases = load_golden(made.bundle)
    board, host, gap = 1.0, 1.0, 0.0
    pipeline = Pipeline.open(made.bundle, variant)
    try:
        for case in cases:
            here, there = pipeline.run(case.inputs), _ask(made, case, port)
            board, host = min(board, worst(there, case)), min(host, worst(here, case))
            for name, mine in here.items():
                scale = float(np.abs(mine).max()) or 1.0
                gap = max(gap, float(np.abs(mine - there[name]).max()) / scale)
    finally:
        pipeline.close()
    tolerance = variant.tolerance
    return Agreement(variant.id, tolerance.metric, tolerance.floor, len(cases), board, host, gap)


def call(port: int, method: str, path: str, body: Json = None) -> tuple[int, Json]:
    """(status, answer) of one request to the board.

    Raises:
        OSError, HTTPException: nobody answers, or not whole.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body).encode())
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None
    finally:
        connection.close()


def _ask(made: Made, case: Case, port: int) -> Mapping[str, Tensor]:
    inputs: list[Json] = [
        {
            "name": name,
            "datatype": DTYPES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data": tensor.ravel().tolist(),
        }
        for name, tensor in case.inputs.items()
    ]
    path = f"/v2/models/{made.manifest.name}/infer"
    try:
        status, answer = call(port, "POST", path, {"inputs": inputs})
    except (OSError, http.client.HTTPException, ValueError) as reason:
        raise DeviceError(f"the board's API: {type(reason).__name__}: {reason}") from None
    if status != 200 or not isinstance(answer, Mapping):
        raise DeviceError(f"the board's API answers {status}: {str(answer)[:300]}")
    outputs = answer["outputs"]
    assert isinstance(outputs, list)
    found = {}
    for output in outputs:
        assert isinstance(output, Mapping)
        data = np.asarray(output["data"], dtype=np.float32)
        found[str(output["name"])] = data.reshape(output["shape"])
    return found
