"""Quantized files for ONNX Runtime: prepare, smooth, watch, round, rewrite, in this order.

What is in the graph decides: convolutions of a static scheme go to the engine's own quantizer with
all that lies between them, see `convolutions`; every matrix is rewritten here. The graph may be
plain or fused; layers have the same names in both, and a fused Attention becomes its integer twin.
That is why the engine's own quantizer has no say there: it passes over fused operators, and on a
plain graph it quantizes what must stay float. Of matrices only inputs and weights are quantized;
norms, softmax, adds of transformers and their head never are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from converters.quantize import Note, Quantized
from converters.quantize.config import SEARCH, Options
from converters.quantize.convolutions import fold_norms, quantize_regions
from converters.quantize.emit import Rewriter
from converters.quantize.graph import (
    CONVOLUTIONS,
    Graph,
    clamp_masks,
    find_layers,
    observe,
    open_embeddings,
    plain_gemms,
)
from converters.quantize.power_of_two import power_of_two
from converters.quantize.samples import Sample
from converters.quantize.scheme import Scheme, assign
from converters.quantize.smooth import (
    activation_ranges,
    fitted,
    search_smoothing,
    smooth,
    weighted_sources,
)
from converters.quantize.whole import quantize_whole
from edge_runtime.errors import InputError

MIN_TEXTS = 4


def quantize_onnx(model: bytes, calibration: Sequence[Sample], *, options: Options) -> Quantized:
    """`model` as `options` say.

    Raises:
        InputError: too few calibration texts for what is asked, or a pattern that matches nothing.
    """
    texts = calibration[: options.rows] if options.rows else calibration
    if options.integer:
        whole = quantize_whole(model, texts, options)
        whole = power_of_two(whole) if options.power_of_two else whole
        return Quantized(whole, _notes(options, texts))
    opened = prepare(model)
    _check_texts(texts, options, schemes_of(opened, options))
    notes: dict[str, Note] = {}
    if options.smooth and not weighted_sources(opened):  # nothing to smooth in such a graph
        options = replace(options, smooth=0.0)
    if options.smooth == SEARCH:
        fit = fitted(texts)
        best = search_smoothing(
            opened, texts, lambda smoothed: rewrite(smoothed, fit, options, rounding="nearest")
        )
        notes |= {
            "smoothing_alpha": best.alpha,
            "smoothing_cosine_before": best.cosine_before,
            "smoothing_cosine_after": best.cosine_after,
        }
        opened = smooth(opened, best.ranges, best.alpha) if best.alpha else opened
    elif options.smooth:
        opened = smooth(opened, activation_ranges(opened, texts), float(options.smooth))
        notes["smoothing"] = float(options.smooth)
    quantized = rewrite(opened, texts, options, rounding=options.rounding)
    return Quantized(quantized, {**notes, **_notes(options, texts)})


def prepare(model: bytes) -> bytes:
    """The float graph in the form in which its layers are found; it answers the same."""
    opened = open_embeddings(model)
    if any(node.op_type in CONVOLUTIONS for node in Graph(opened).proto.graph.node):
        opened = fold_norms(opened)
    return plain_gemms(opened)


def rewrite(model: bytes, texts: Sequence[Sample], options: Options, *, rounding: str) -> bytes:
    """Every layer of `model`, which is prepared, in its scheme; texts are enough."""
    schemes = schemes_of(model, options)
    if any(scheme.activations == "static" for scheme in schemes.values()):
        model = clamp_masks(model)
    model = quantize_regions(model, texts, schemes, options)
    graph = Graph(model)
    layers = {layer.output: layer for layer in find_layers(graph.proto)}
    matrices = [one for one in layers.values() if one.op not in ("Gather", *CONVOLUTIONS)]
    ranged = {one.source for one in matrices if schemes[one.name].activations == "static"}
    grams = set()
    if rounding == "gptq":
        grams = {one.source for one in matrices if schemes[one.name].activations != "float"}
    seen = observe(model, texts, sorted(ranged), grams=sorted(grams))
    writer = Rewriter(graph, seen, options.calibration, options.percentile, options.symmetric)
    for node in graph.proto.graph.node:
        layer = layers.get(node.output[0])
        if layer is None:
            graph.nodes.append(node)
        else:
            writer.rewrite(node, layer, schemes[layer.name])
    return graph.finish()


def schemes_of(model: bytes, options: Options) -> dict[str, Scheme]:
    """Layer → scheme."""
    names = tuple(layer.name for layer in find_layers(Graph(model).proto))
    return assign(names, options.scheme, options.layers)


def _check_texts(texts: Sequence[Sample], options: Options, schemes: Mapping[str, Scheme]) -> None:
    """Whatever looks at texts needs some."""
    looks = {
        "smoothing": bool(options.smooth),
        "static quantization": any(one.activations == "static" for one in schemes.values()),
        "gptq rounding": options.rounding == "gptq",
    }
    needing = [what for what, needed in looks.items() if needed]
    if needing and len(texts) < MIN_TEXTS:
        raise InputError(
            f"{' and '.join(needing)} needs {MIN_TEXTS} or more calibration texts, "
            f"found {len(texts)}"
        )


def _notes(options: Options, texts: Sequence[Sample]) -> Mapping[str, Note]:
    """What the report says of how the file came about."""
    notes: dict[str, Note] = {}
    scheme = options.scheme
    if scheme.startswith("dynamic"):
        notes["activations"] = "per tensor, while running"
    if scheme.startswith("static"):
        notes["calibration"] = options.calibration
    if options.rounding != "nearest":
        notes["rounding"] = options.rounding
    if options.layers:
        notes["mixed"] = ", ".join(f"{k}: {v}" for k, v in options.layers.items())
    if scheme.startswith("static") or options.smooth or options.rounding != "nearest":
        notes["calibration_texts"] = len(texts)
    return notes
