"""A text encoder with or without a head, in the words that every float model speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.sources.interface import Description, Exported, Interface
from edge_runtime.bundle.manifest import Step, TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.fields import Json
from edge_runtime.inference.backend import Tensor

if TYPE_CHECKING:
    from converters.model import TextModel

TOKENIZER_FILE = "tokenizer.json"
MAX_TEXT_BYTES = 65536
TOP_K = 5


class EncoderModel:
    """The encoder, head and tokenizer of `model`; `exporter` "torch" or "optimum"."""

    def __init__(self, model: TextModel, *, max_length: int, exporter: str = "torch") -> None:
        self._model = model
        self._exporter = exporter
        self._network: Any = None
        self.name = model.name
        self.sha256 = model.sha256
        self.licence = model.licence
        self.interface = encoder_interface(model, max_length)

    def export(self, backend: str, *, opset: int, lengths: Sequence[int]) -> Exported:
        """See `FloatModel`."""
        from converters.network import load_network

        # A network of its own: exporters patch what they trace.
        network = load_network(self._model.encoder, self._model.head)
        if backend == "litert":
            from converters.export.litert import export_litert, signatures

            return Exported(export_litert(network, lengths=lengths), signatures(lengths))
        if backend != "onnxruntime":
            raise InputError(f"model {self.name}: nothing exports a text encoder to {backend}")
        if self._exporter == "optimum":
            from converters.export.optimum import export_optimum

            return Exported(export_optimum(network, opset=opset))
        from converters.export.onnx import export_onnx

        return Exported(export_onnx(network, opset=opset))

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `FloatModel`."""
        import torch

        from converters.network import load_network
        from converters.quiet import quiet

        if self._network is None:
            self._network = load_network(self._model.encoder, self._model.head)
        with quiet(), torch.inference_mode():
            tensors = [
                torch.from_numpy(np.asarray(feeds[spec.name])) for spec in self.interface.inputs
            ]
            return {name: one.numpy() for name, one in self._network(*tensors).items()}

    def describe(self) -> Description:
        """See `FloatModel`."""
        from converters.network import load_network

        network = load_network(self._model.encoder, self._model.head)
        counts: dict[str, int] = {}
        for module in network.modules():
            if not list(module.children()):
                kind = type(module).__name__
                counts[kind] = counts.get(kind, 0) + 1
        return Description(
            format="Hugging Face encoder",
            name=self.name,
            sha256=self._model.source_sha256,
            size_bytes=sum(one.numel() * one.element_size() for one in network.parameters()),
            licence=self.licence,
            parameters=sum(one.numel() for one in network.parameters()),
            operators=counts,
            interface=self.interface,
        )


def encoder_interface(model: TextModel, max_length: int) -> Interface:
    """What a bundle of `model` declares."""
    token = ("batch", "sequence")
    width = len(model.classes) or model.source.hidden
    tokenize = Step(
        "tokenize",
        {
            "file": TOKENIZER_FILE,
            "max_length": max_length,
            "max_bytes": MAX_TEXT_BYTES,
            "pad_id": model.source.pad_id,
            "inputs": ["input_ids", "attention_mask"],
        },
    )
    after: tuple[Step, ...] = (Step("l2_normalize"),)
    if model.head is not None:
        top: dict[str, Json] = {"labels": list(model.classes), "k": min(TOP_K, len(model.classes))}
        after = (Step("softmax"), Step("top_k", top))
    return Interface(
        task="embedding" if model.head is None else "text-classification",
        inputs=(
            TensorSpec("input_ids", "int64", token),
            TensorSpec("attention_mask", "int64", token),
        ),
        outputs=(TensorSpec(model.output, "float32", ("batch", width)),),
        preprocess=(tokenize,),
        postprocess=after,
        labels=model.classes,
        files={TOKENIZER_FILE: model.tokenizer.path},
    )
