"""The float embedding of every row of a split: the reference, and what a frozen head learns from.

The encoder is exported once and run by ONNX Runtime in batches of like length, on every core: the
arithmetic is float, so batching changes nothing but time. The result is cached by encoder and
rows, so a second head on the same encoder costs no inference at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from converters.cache import tool_versions
from converters.data import Rows
from converters.encoding import collate, encode, load_tokenizer
from converters.ort import host_threads, open_session

if TYPE_CHECKING:
    from converters.model import Job, TextModel

FloatArray = npt.NDArray[np.float32]
BATCH = 16
OPSET = 17


def embed_rows(model: TextModel, rows: Rows, job: Job) -> FloatArray:
    """The pooled output for each row of `rows`, float32, shape (rows, hidden)."""
    max_length = job.recipe.data.max_length
    parts: dict[str, object] = {
        "encoder": model.encoder_sha256,
        "tokenizer": model.tokenizer.sha256,
        "rows": rows.sha256,
        "max_length": max_length,
        "tools": tool_versions("torch", "transformers", "onnxruntime", "tokenizers"),
    }

    def make(out: Path) -> None:
        tokenizer = load_tokenizer(model.tokenizer.path, max_length=max_length)
        texts = encode(tokenizer, rows.texts)
        session = open_session(_encoder_onnx(model), threads=host_threads())
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = np.empty((len(texts), model.source.hidden), dtype=np.float32)
        title = f"float embeddings of {rows.path.name}"
        with job.progress.count(title, len(texts)) as advance:
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                inputs = collate([texts[index] for index in batch], model.source.pad_id)
                found[batch] = session.run(None, inputs.tensors())[0]
                advance(len(batch), "")
        np.save(out / "embeddings.npy", found)

    folder = job.cache.folder("embed", parts, make)
    loaded: FloatArray = np.load(folder / "embeddings.npy", allow_pickle=False)
    return loaded


def answers_of(model: TextModel, rows: Rows, job: Job) -> FloatArray:
    """The output for each row, (rows, width): the embedding, or through the head the logits."""
    from converters.network import load_head

    embeddings = embed_rows(model, rows, job)
    if model.head is None:
        return embeddings
    head = load_head(model.head.parent)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    logits: FloatArray = embeddings @ weight.T + bias
    return logits


def _encoder_onnx(model: TextModel) -> bytes:
    """The encoder with pooling and without a head, fused."""
    from converters.export.onnx import export_onnx
    from converters.fuse import fuse_onnx
    from converters.network import TextNetwork, load_encoder

    network = TextNetwork(load_encoder(model.encoder), None)
    plain = export_onnx(network, opset=OPSET)
    fused, _ = fuse_onnx(
        plain,
        architecture=model.source.architecture,
        heads=model.source.heads,
        hidden=model.source.hidden,
    )
    return fused
