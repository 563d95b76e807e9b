"""A whole model in a Hugging Face folder: its own head, its own processor, its own labels.

The task is told by the architecture that config.json names, unless one is given; the steps around
it come from preprocessor_config.json and tokenizer.json, see `steps`; the model's answers are cut
to what the task needs, see `heads`. How the files are read is in `huggingface_folder`.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, TypeAlias

import torch

from converters.quiet import quiet
from converters.sources.heads import (
    Classifier,
    Detector,
    MeanOfTokens,
    Pooled,
    Tower,
    plain,
)
from converters.sources.huggingface_folder import Folder, digest, licence_of, load, look
from converters.sources.interface import FloatModel, Interface
from converters.sources.steps import image_steps, sound_steps
from converters.sources.torch_model import TorchModel, sentence
from converters.sources.torch_module import BATCH, SEQUENCE, probe
from edge_runtime.bundle.manifest import Step, TensorSpec
from edge_runtime.errors import InputError

SOUND_HEADS = ("input_values", "input_features")
KINDS = {"input_ids": "text", "pixel_values": "image"} | dict.fromkeys(SOUND_HEADS, "audio")
KIND_OF = {
    "text-classification": "text", "text-pair-classification": "text",
    "token-classification": "text", "image-classification": "image",
    "object-detection": "image", "image-segmentation": "image", "audio-classification": "audio",
}  # fmt: skip
SIGMOID_DETECTORS = (
    "conditional_detr", "d_fine", "dab-detr", "deformable_detr", "rt_detr", "rt_detr_v2",
)  # fmt: skip
"""Detectors that score each class for itself; the others have a last class that means nothing."""
OWN_POOLING = ("clip_text_model", "siglip_text_model", "siglip2_text_model")
"""Text encoders that pool at a token of their own."""
TOKENIZER = "tokenizer.json"
USUAL_RATE = 16_000
"""Samples a second, where no processor says."""


def open_huggingface(
    folder: Path,
    *,
    task: str = "",
    name: str,
    licence: str,
    max_length: int = 128,
    seconds: float = 0.0,
    tower: str = "",
) -> FloatModel:
    """The model in `folder`, with the steps around it.

    Args:
        task: instead of the one that the architecture tells.
        licence: what is known of it; "" for what the folder says, or "unknown".
        max_length: tokens of a text; fewer where the model takes fewer.
        seconds: of a clip, where the model hears bare samples; 0 for one second.
        tower: "text" or "image" of a model that has both.

    Raises:
        InputError: a file is missing or damaged, the architecture or its processor is not
            supported, or it does not serve the task.
    """
    where = f"model {name}"
    found = look(folder, where, task, max_length, seconds, tower)
    with quiet():
        model = load(found, where)
    plain(model)
    return _open(found, model, where, licence or licence_of(folder, found.config))


def _open(found: Folder, model: Any, where: str, licence: str) -> TorchModel:
    kind = _kind(found, model, where)
    task = _resolved(found, kind)
    head = _head(found, model, task, kind, where)
    before, specs, files, notes = _before(found, model, task, kind, where)
    samples = _samples(specs, model)
    try:
        with quiet():
            outputs = probe(head, specs, samples, head.outputs)
    except Exception as reason:
        raise InputError(f"{where}: cannot run ({sentence(reason)})") from None
    labels = _labels(found.config) if task != "embedding" else ()
    after = _after(found, task, labels, outputs, where)
    interface = Interface(task, specs, outputs, before, after, labels, files)
    return TorchModel(
        head, interface, samples, found.name, digest(found), licence, "huggingface",
        sum(one.stat().st_size for one in found.weights), notes,
    )  # fmt: skip


def _kind(found: Folder, model: Any, where: str) -> str:
    """What the model takes: "text", "image" or "audio"."""
    if hasattr(model, "get_text_features") and hasattr(model, "get_image_features"):
        if found.tower in ("text", "image"):
            return found.tower
        if found.task == "embedding":
            raise InputError(
                f"{where}: {found.architecture} has two towers; say which: text or image"
            )
    main = str(getattr(model, "main_input_name", ""))
    if main not in KINDS:
        raise InputError(
            f"{where}: {found.architecture} takes {main or 'no known input'}, expected one of "
            f"{', '.join(KINDS)}"
        )
    kind = KINDS[main]
    if found.architecture.endswith("ForSequenceClassification") and kind == "audio":
        return kind
    expected = KIND_OF.get(found.task, kind)
    if expected != kind:
        raise InputError(f"{where}: {found.task} is about {expected}, the model takes {main}")
    return kind


def _resolved(found: Folder, kind: str) -> str:
    """The task, where the head alone does not tell it."""
    task = found.task
    if task == "text-classification" and kind == "audio":
        task = "audio-classification"
    single = task in ("text-classification", "image-classification", "audio-classification")
    if single and (
        found.config.problem_type == "regression"
        or (found.config.problem_type is None and found.config.num_labels == 1)
    ):
        return "regression"
    return task


def _head(found: Folder, model: Any, task: str, kind: str, where: str) -> Any:
    if task == "object-detection":
        return Detector(model)
    if task != "embedding":
        return Classifier(model)
    if hasattr(model, "get_text_features") and hasattr(model, "get_image_features"):
        text = model.config.text_config
        whole = kind == "text" and text.model_type in OWN_POOLING and "siglip" in text.model_type
        length = text.max_position_embeddings if whole else 0
        return Tower(model, kind, length=length, pad=text.pad_token_id or 0)
    projected = {"text": "text_embeds", "image": "image_embeds"}.get(kind, "")
    if found.architecture.endswith("WithProjection"):
        return Pooled(model, projected)
    if kind == "text" and model.config.model_type in OWN_POOLING:
        return Pooled(model, "pooler_output")
    if kind != "image":
        return MeanOfTokens(model)
    return Pooled(model, "pooler_output" if _pools(model) else "last_hidden_state")


def _pools(model: Any) -> bool:
    """Whether the model pools itself, with weights that it has."""
    if getattr(model, "edge_no_pooler", False):
        return False
    with torch.inference_mode():
        height, width, channels = *_side(model.config), getattr(model.config, "num_channels", 3)
        found = model(pixel_values=torch.zeros(1, channels, height, width))
    return isinstance(getattr(found, "pooler_output", None), torch.Tensor)


def _side(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or 224
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


Before: TypeAlias = tuple[
    tuple[Step, ...], tuple[TensorSpec, ...], dict[str, Path], tuple[str, ...]
]
"""Steps before the model, its inputs, the files that steps read, and what is to be known."""


def _before(found: Folder, model: Any, task: str, kind: str, where: str) -> Before:
    if kind == "text":
        return _text(found, model, task, where)
    processor = None
    notes: tuple[str, ...] = ()
    if (found.path / "preprocessor_config.json").is_file():
        with quiet():
            processor = _processor(found.path, kind, where)
    else:
        notes = ("preprocessor_config.json is missing: the recipe must say how inputs are made",)
    if kind == "image":
        steps, size = image_steps(processor) if processor else ((), _side(_vision(model.config)))
        channels = getattr(_vision(model.config), "num_channels", 3)
        shape = ("batch", channels, *size)
        return steps, (TensorSpec("pixel_values", "float32", shape, "NCHW"),), {}, notes
    if processor is None:
        name = str(model.main_input_name)
        inner = _frames(model.config, name) or (round(found.seconds * USUAL_RATE),)
        return (), (TensorSpec(name, "float32", ("batch", *inner)),), {}, notes
    sound = sound_steps(processor, seconds=found.seconds)
    return sound.steps, (TensorSpec(sound.input, "float32", ("batch", *sound.shape)),), {}, notes


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", None) or config


def _frames(config: Any, name: str) -> tuple[int, ...]:
    """Shape of features, where the model's own configuration fixes it; () for bare samples."""
    if name == "input_features":  # Whisper halves them
        return int(config.num_mel_bins), 2 * int(config.max_source_positions)
    if config.model_type == "audio-spectrogram-transformer":
        return int(config.max_length), int(config.num_mel_bins)
    return ()


def _processor(folder: Path, kind: str, where: str) -> Any:
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        if kind == "image":
            # The fast ones resize by another library, and not as the networks were trained.
            return AutoImageProcessor.from_pretrained(folder, use_fast=False, **settings)
        return AutoFeatureExtractor.from_pretrained(folder, **settings)
    except Exception as reason:  # of the library and its parsers: no common base
        raise InputError(
            f"{where}: preprocessor_config.json cannot be used ({sentence(reason)})"
        ) from None


def _text(found: Folder, model: Any, task: str, where: str) -> Before:
    config = getattr(model.config, "text_config", None) or model.config
    takes = inspect.signature(getattr(model, "get_text_features", model.forward)).parameters
    names = ["input_ids"]
    if "attention_mask" in takes and "siglip" not in config.model_type:
        names.append("attention_mask")
    pair = task == "text-pair-classification"
    if pair and "token_type_ids" in takes and getattr(config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    specs = tuple(TensorSpec(one, "int64", ("batch", "sequence")) for one in names)
    length = min(found.max_length, _positions(model, config))
    notes: tuple[str, ...] = ()
    if length < found.max_length:
        notes = (f"takes at most {length} tokens",)
    path = found.path / TOKENIZER
    if not path.is_file():
        told = f"{TOKENIZER} is missing: the recipe must say how texts become tokens"
        return (), specs, {}, (*notes, told)
    options: dict[str, Any] = {
        "file": TOKENIZER, "max_length": length, "pad_id": _pad_id(config, path, where),
        "inputs": names,
    }  # fmt: skip
    if pair:
        options["pair"] = True
    return (Step("tokenize", options),), specs, {TOKENIZER: path}, notes


def _positions(model: Any, config: Any) -> int:
    """Most tokens that the model takes; some count positions from the padding's id on."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            lost = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings) - lost
    return int(getattr(config, "max_position_embeddings", None) or 1 << 20)


def _pad_id(config: Any, path: Path, where: str) -> int:
    """As the tokenizer pads, else as the model's configuration says."""
    if path.stat().st_size > 1 << 26:
        raise InputError(f"{where}: {TOKENIZER} has {path.stat().st_size:,} bytes")
    try:
        padding = json.loads(path.read_bytes()).get("padding") or {}
        return int(padding.get("pad_id", config.pad_token_id or 0))
    except (ValueError, AttributeError, TypeError) as reason:
        raise InputError(f"{where}: {TOKENIZER} cannot be read ({sentence(reason)})") from None


def _samples(specs: tuple[TensorSpec, ...], model: Any) -> dict[str, torch.Tensor]:
    """Something to trace with: tokens, or noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    config = getattr(model.config, "text_config", None) or model.config
    made = {}
    for spec in specs:
        shape = [{BATCH: 3, SEQUENCE: 11}[dim] if isinstance(dim, str) else dim
                 for dim in spec.shape]  # fmt: skip
        if spec.name == "input_ids":
            made[spec.name] = torch.randint(0, config.vocab_size, shape, generator=generator)
        elif spec.dtype == "int64":
            fill = 0 if spec.name == "token_type_ids" else 1
            made[spec.name] = torch.full(shape, fill)
        else:
            made[spec.name] = torch.randn(shape, generator=generator)
    return made


def _labels(config: Any) -> tuple[str, ...]:
    return tuple(str(name) for _, name in sorted(config.id2label.items()))


def _after(
    found: Folder,
    task: str,
    labels: tuple[str, ...],
    outputs: tuple[TensorSpec, ...],
    where: str,
) -> tuple[Step, ...]:
    """Steps behind the model."""
    scores = outputs[-1]
    if task == "embedding":
        return (Step("l2_normalize"),)
    softened = found.config.model_type not in SIGMOID_DETECTORS
    expected = len(labels) + (1 if task == "object-detection" and softened else 0)
    at = scores.shape[1 if task == "image-segmentation" else -1]
    if at != expected:
        raise InputError(f"{where}: {expected} scores for {len(labels)} labels, found {at}")
    names = list(labels)
    if task == "regression":
        return (Step("values", {"names": names}),)
    if task == "image-segmentation":
        return (Step("class_map", {"labels": names, "layout": "NCHW"}),)
    if task == "object-detection":
        options: dict[str, Any] = {
            "boxes": "boxes", "scores": "scores", "corners": "cxcywh", "normalized": True,
            "activation": "softmax" if softened else "sigmoid",
            "background": "last" if softened else "none",
            # Such detectors are trained to say each thing once.
            "labels": names, "threshold": 0.5, "iou": 1.0,
        }  # fmt: skip
        return (Step("boxes", options),)
    if task == "token-classification":
        return (Step("softmax"), Step("spans", {"labels": names, "strategy": "simple"}))
    many = found.config.problem_type == "multi_label_classification"
    top = Step("top_k", {"labels": names, "k": min(5, len(names))})
    return (Step("sigmoid" if many else "softmax"), top)
