"""The files of a Hugging Face folder: looked at, and loaded with nothing of them executed.

No code of the folder runs, and pickled weights are read as tensors only. Sizes that the weights
cannot have are refused before memory is spent on them, and weights that are missing are an error,
where the library would warn and go on with random ones.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from converters.quiet import quiet
from converters.source import MAX_CONFIG_BYTES, files_digest
from converters.sources.torch_model import sentence
from edge_runtime.errors import InputError
from edge_runtime.fields import decode_json

HEADS: Mapping[str, str] = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "ImageClassification": "image-classification",
    "ImageClassificationWithTeacher": "image-classification",
    "ObjectDetection": "object-detection",
    "SemanticSegmentation": "image-segmentation",
    "AudioClassification": "audio-classification",
}
"""What follows "For" in an architecture's name → task; all others are embeddings."""
SAME_HEAD: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("text-pair-classification", "regression"),
    "image-classification": ("regression",),
    "audio-classification": ("regression",),
}
"""Tasks that the head of another serves."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "*.safetensors.index.json")
MAX_LAYERS = 4096
SECONDS = 1.0
"""Of a clip, where the model hears bare samples of any length."""


@dataclass(frozen=True, slots=True)
class Folder:
    """What stands in the folder, and what is asked of it."""

    path: Path
    name: str
    config: Any
    architecture: str
    task: str
    weights: tuple[Path, ...]
    max_length: int
    seconds: float
    tower: str


def look(
    folder: Path, where: str, task: str, max_length: int, seconds: float, tower: str
) -> Folder:
    """Everything that can be told from config.json and the names of files."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{where}: config.json is missing in {folder}")
    raw = decode_json(
        path.read_bytes(), max_bytes=MAX_CONFIG_BYTES, where=f"{where}: config.json",
        error=InputError,
    )  # fmt: skip
    if not isinstance(raw, dict):
        raise InputError(f"{where}: config.json is no object")
    listed = raw.get("architectures")
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], str):
        raise InputError(f"{where}: config.json names no architectures")
    weights = next(
        (tuple(sorted(files)) for files in (list(folder.glob(one)) for one in WEIGHTS) if files),
        (),
    )
    if not weights:
        raise InputError(f"{where}: none of {', '.join(WEIGHTS)} is in {folder}")
    _refuse_deep(raw, where)
    with quiet():
        config = _config(folder, where)
    return Folder(
        folder, where.removeprefix("model "), config, listed[0], _task(listed[0], task, where),
        weights, max_length, seconds or SECONDS, tower,
    )  # fmt: skip


def _refuse_deep(raw: Mapping[str, Any], where: str) -> None:
    """Layers are made one by one before their weights are looked for."""
    for key, value in raw.items():
        if isinstance(value, dict):
            _refuse_deep(value, where)
        many = [one for one in (value if isinstance(value, list) else [value])
                if isinstance(one, int) and one > MAX_LAYERS]  # fmt: skip
        if many and ("layers" in key or "depth" in key or "blocks" in key):
            raise InputError(f"{where}: config.json says {key} {many[0]}, at most {MAX_LAYERS}")


def _config(folder: Path, where: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as reason:  # of the library and its parsers: no common base
        raise InputError(f"{where}: config.json cannot be used ({sentence(reason)})") from None


def _task(architecture: str, given: str, where: str) -> str:
    told = HEADS.get(architecture.rpartition("For")[2], "embedding")
    if not given or given in (told, "embedding"):
        return given or told
    if given in SAME_HEAD.get(told, ()) or (
        given == "audio-classification" and told == "text-classification"
    ):
        return given
    raise InputError(f"{where}: {architecture} is for {told}, not for {given}")


def load(found: Folder, where: str) -> Any:
    """The library's model, float32, in eval mode, every weight from the folder."""
    kind = _class(found, where)
    settings: dict[str, Any] = {
        "config": found.config, "local_files_only": True, "trust_remote_code": False,
    }  # fmt: skip
    try:
        _refuse_larger(kind, found, where)
        model, info = kind.from_pretrained(
            found.path,
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=found.weights[0].suffix == ".safetensors",
            weights_only=True,
            **settings,
        )
    except InputError:
        raise
    except Exception as reason:  # of the library, of its parsers, of torch: no common base
        raise InputError(f"{where}: cannot be loaded ({sentence(reason)})") from None
    missing = sorted(info["missing_keys"])
    if found.task == "embedding":
        if any("pooler" in one for one in missing):
            model.edge_no_pooler = True
        missing = [one for one in missing if "pooler" not in one]
    if missing:
        raise InputError(
            f"{where}: {len(missing)} of its weights are missing, such as {missing[0]}"
        )
    if getattr(model.config, "is_encoder_decoder", False) and found.task == "embedding":
        model = model.get_encoder()
    return model.eval()


def _class(found: Folder, where: str) -> Any:
    """The class of the library to load: the architecture, or its body where that is wanted."""
    import transformers

    try:
        kind = getattr(transformers, found.architecture, None)
    except ImportError as reason:  # the library imports what is asked for, and what that needs
        raise InputError(f"{where}: {found.architecture} needs more ({sentence(reason)})") from None
    if not (inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)):
        raise InputError(
            f"{where}: architecture {found.architecture!r} is not in transformers "
            f"{transformers.__version__}, and code of the folder is never run"
        )
    if found.task == "embedding" and re.search("For[A-Z]", found.architecture):
        return transformers.AutoModel
    return kind


def _refuse_larger(kind: Any, found: Folder, where: str) -> None:
    """Sizes that the files of weights cannot hold: a number takes a byte at least."""
    make = getattr(kind, "_from_config", None) or kind.from_config
    with torch.device("meta"):
        numbers = sum(one.numel() for one in make(found.config).parameters())
    have = sum(one.stat().st_size for one in found.weights)
    if numbers > have:
        raise InputError(
            f"{where}: config.json says {numbers:,} numbers, the weights have {have:,} bytes"
        )


def digest(found: Folder) -> str:
    """Everything that shapes an answer: files, and what was asked."""
    files = [path for one in FILES for path in found.path.glob(one)]
    asked = f"{found.task}:{found.tower}:{found.max_length}:{found.seconds}"
    whole = f"{files_digest([*files, *found.weights])}\n{asked}\n"
    return hashlib.sha256(whole.encode()).hexdigest()


def licence_of(folder: Path, config: Any) -> str:
    """What README.md's front matter says, else what config.json says, else "unknown"."""
    readme = folder / "README.md"
    if readme.is_file():
        with readme.open(encoding="utf-8", errors="replace") as file:
            head = re.match(r"---\n(.*?)\n---", file.read(1 << 16), re.DOTALL)
        told = re.search(r"^license:[ \t]*([^\n#]+)", head.group(1), re.M) if head else None
        if told and told.group(1).strip(" '\"-"):
            return told.group(1).strip(" '\"")[:128]
    value = getattr(config, "license", None)
    return value[:128] if isinstance(value, str) and value else "unknown"
