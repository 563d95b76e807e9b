"""The float network that everybody starts from, and the rows that everybody answers.

A reference is a folder with `encoder/` (Hugging Face), `tokenizer.json` and, for a classifier,
`head.safetensors`; without a head it is measured as an embedding. It is exported once, and
calibration and test rows are tokenized once, by the tokenizer that we would ship.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.compression.peer import Inputs
from benchmarks.compression.peers.ort import OrtRunner
from benchmarks.compression.rows import FloatArray, Rows
from converters.data import Dataset, load_dataset
from converters.encoding import encode, load_tokenizer
from converters.export.onnx import export_onnx
from converters.network import HEAD_FILE, load_network
from converters.recipe import DataConfig
from edge_runtime.errors import InputError

CLASSIFICATION, EMBEDDING = "text-classification", "embedding"
OPSET = 17
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Reference:
    """Inputs of every build, the rows to answer, and what the answers are judged by.

    `targets` are class indexes, int64 (rows,), for a classifier. `embeddings` are the float
    model's, float32 (rows, hidden), for an embedding. The other one is None. `digest` covers the
    float model and the calibration rows: what a build depends on.
    """

    name: str
    task: str
    inputs: Inputs
    inputs_file: Path
    rows_file: Path
    rows: Rows
    targets: npt.NDArray[np.int64] | None
    embeddings: FloatArray | None
    digest: str


def load_reference(
    folder: Path, data: Path, work: Path, *, lengths: Sequence[int], limit: int = 0
) -> Reference:
    """Read `folder`, export it into `work`, tokenize the rows of `data`.

    Args:
        folder: the reference.
        data: a folder with train, calibration and test .jsonl.xz, columns text and label.
        work: where files for the tools are written.
        lengths: token counts of entry points; the longest truncates every text.
        limit: measure the first test rows only; 0 for all.

    Raises:
        InputError: a file is missing or wrong.
    """
    task = CLASSIFICATION if (folder / HEAD_FILE).is_file() else EMBEDDING
    for name in ("encoder", TOKENIZER_FILE):
        if not (folder / name).exists():
            raise InputError(f"reference {folder}: {name} is missing")
    lengths = tuple(sorted(lengths))
    dataset = _dataset(data, task, lengths[-1])
    test = dataset.test.first(limit)
    calibration, rows = _tokenized(
        folder / TOKENIZER_FILE, lengths[-1], (dataset.calibration.texts, test.texts)
    )
    work.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(folder, task, lengths, work)
    calibration.save(inputs.calibration)
    rows.save(work / "test.npz")
    (work / "inputs.json").write_text(inputs.to_json())
    parts = (inputs.onnx.read_bytes(), calibration.digest().encode(), repr(lengths).encode())
    classifier = task == CLASSIFICATION
    return Reference(
        name=folder.name,
        task=task,
        inputs=inputs,
        inputs_file=work / "inputs.json",
        rows_file=work / "test.npz",
        rows=rows,
        targets=dataset.indexes(test) if classifier else None,
        embeddings=None if classifier else _embeddings(inputs.onnx, rows, work),
        digest=hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in parts)).hexdigest(),
    )


def _dataset(data: Path, task: str, max_length: int) -> Dataset:
    train, calibration, test = (
        data / f"{name}.jsonl.xz" for name in ("train", "calibration", "test")
    )
    config = DataConfig(train, calibration, test, None, "text", "label", max_length)
    return load_dataset(config, task)


def _tokenized(path: Path, max_length: int, splits: Iterable[tuple[str, ...]]) -> Iterator[Rows]:
    tokenizer = load_tokenizer(path, max_length=max_length)
    for texts in splits:
        yield Rows(texts, tuple(one.input_ids[0] for one in encode(tokenizer, texts)))


def _inputs(folder: Path, task: str, lengths: tuple[int, ...], work: Path) -> Inputs:
    """What builds take, the exported float model written to `work`."""
    config = _config(folder)
    head = folder / HEAD_FILE if task == CLASSIFICATION else None
    (work / "float.onnx").write_bytes(
        export_onnx(load_network(folder / "encoder", head), opset=OPSET)
    )
    return Inputs(
        onnx=work / "float.onnx",
        encoder=folder / "encoder",
        head=head,
        calibration=work / "calibration.npz",
        architecture=str(config["model_type"]),
        heads=_integer(config, "num_attention_heads", "n_heads"),
        hidden=_integer(config, "hidden_size", "dim"),
        pad_id=_integer(config, "pad_token_id"),
        lengths=lengths,
    )


def _embeddings(model: Path, rows: Rows, work: Path) -> FloatArray:
    """The float model's answer to each row, kept in `work` for the next run."""
    key = hashlib.sha256(model.read_bytes() + rows.digest().encode()).hexdigest()[:16]
    kept = work / f"embeddings-{key}.npy"
    if not kept.is_file():
        runner = OrtRunner(model)
        partial = kept.with_suffix(".partial.npy")
        np.save(partial, np.stack([runner(ids) for ids in rows.ids]))
        partial.replace(kept)
    found: FloatArray = np.load(kept, allow_pickle=False)
    return found


def _config(folder: Path) -> dict[str, object]:
    path = folder / "encoder" / "config.json"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as reason:
        raise InputError(f"reference {folder}: {path.name} cannot be read ({reason})") from None
    if not isinstance(found, dict) or "model_type" not in found:
        raise InputError(f"reference {folder}: {path.name} names no model_type")
    return found


def _integer(config: dict[str, object], *names: str) -> int:
    """The first of `names` that the configuration has; 0 where it has none."""
    found = next((config[name] for name in names if name in config), 0)
    return found if isinstance(found, int) else 0
