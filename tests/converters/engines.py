"""Run a converted file and the torch network on the same texts, to hold one against the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from converters.encoding import Encoded, collate
from converters.ort import open_session

if TYPE_CHECKING:
    from converters.network import TextNetwork

FloatArray = npt.NDArray[np.float32]


def torch_answers(network: TextNetwork, texts: Sequence[Encoded]) -> FloatArray:
    """One row a text, (texts, width)."""
    import torch

    rows = []
    with torch.inference_mode():
        for text in texts:
            ids, mask = torch.from_numpy(text.input_ids), torch.from_numpy(text.attention_mask)
            rows.append(network(ids, mask)[network.output_name].numpy())
    return np.concatenate(rows)


def onnx_answers(model: bytes, texts: Sequence[Encoded]) -> FloatArray:
    """The same from an ONNX file."""
    session = open_session(model)
    return np.concatenate([session.run(None, text.tensors())[0] for text in texts])


def onnx_batch(model: bytes, texts: Sequence[Encoded]) -> FloatArray:
    """All texts in one padded batch."""
    found: FloatArray = open_session(model).run(None, collate(texts, 0).tensors())[0]
    return found


def litert_answers(model: bytes, texts: Sequence[Encoded], lengths: Sequence[int]) -> FloatArray:
    """The same from a LiteRT file, each text in the smallest entry point that it fits."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    runners: dict[int, Any] = {n: interpreter.get_signature_runner(f"tokens_{n}") for n in lengths}
    rows = []
    for text in texts:
        length = min(n for n in lengths if n >= len(text))
        feeds = {
            name: np.pad(tensor, ((0, 0), (0, length - len(text)))).astype(np.int32)
            for name, tensor in text.tensors().items()
        }
        (value,) = runners[length](**feeds).values()
        rows.append(value)
    return np.concatenate(rows)


def cosine(a: FloatArray, b: FloatArray) -> float:
    """The lowest cosine of rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())
