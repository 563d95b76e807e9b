"""What `edge_runtime.load(...)(text)` costs over a loop written by hand.

    python -m benchmarks.inference_overhead BUNDLE [--rounds 200] [--json]

The loop by hand is the least that does the job: tokenizer, session, softmax, the likeliest label,
one thread, the engine's defaults. Both answer the same texts in turn, a few times each, their
order swapped every turn; medians of the same text are compared, so that what else the machine
does hits both. The texts are the bundle's golden ones and a text of two words.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edge_runtime
from benchmarks.tables import Row, at_most, show
from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.manifest import Variant
from edge_runtime.bundle.verify import VerifiedBundle, verify

GOAL = 1.05
SHORT = "mail server"
BLOCK = 6


def labels_of(bundle: VerifiedBundle) -> Sequence[Any]:
    """Labels in the order of the model's outputs."""
    steps = {step.step: step.options for step in bundle.manifest.postprocess}
    labels = steps.get("top_k", {}).get("labels")
    if not isinstance(labels, Sequence):
        raise SystemExit("inference_overhead: this benchmark wants a text classifier")
    return labels


def tokenizer_of(bundle: VerifiedBundle) -> Any:
    """The bundle's tokenizer, cut at its length."""
    from tokenizers import Tokenizer

    options = bundle.manifest.preprocess[0].options
    tokenizer = Tokenizer.from_buffer(bundle.read(str(options["file"])))
    tokenizer.no_padding()
    tokenizer.enable_truncation(options["max_length"])
    return tokenizer


def likeliest(logits: Any, labels: Sequence[Any]) -> tuple[Any, float]:
    """Softmax and argmax of one row."""
    powers = np.exp(logits - logits.max())
    best = int(powers.argmax())
    return labels[best], float(powers[best] / powers.sum())


def by_hand_onnxruntime(bundle: VerifiedBundle, variant: Variant) -> Callable[[str], object]:
    """Tokenizer and ONNX Runtime session, written out."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        bundle.read(variant.file), options, providers=["CPUExecutionProvider"]
    )
    tokenizer, labels = tokenizer_of(bundle), labels_of(bundle)
    names = [argument.name for argument in session.get_inputs()]

    def answer(text: str) -> object:
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if "token_type_ids" in names:
            feeds["token_type_ids"] = np.zeros_like(ids)
        return likeliest(session.run(None, feeds)[0][0], labels)

    return answer


def by_hand_litert(bundle: VerifiedBundle, variant: Variant) -> Callable[[str], object]:
    """Tokenizer and LiteRT signatures, written out."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=bundle.read(variant.file), num_threads=1)
    tokenizer, labels = tokenizer_of(bundle), labels_of(bundle)
    runners = {
        s.dims["sequence"]: interpreter.get_signature_runner(s.name) for s in variant.signatures
    }

    def answer(text: str) -> object:
        found = tokenizer.encode(text).ids
        length = min(n for n in runners if n >= len(found))
        ids = np.zeros((1, length), dtype=np.int32)
        mask = np.zeros((1, length), dtype=np.int32)
        ids[0, : len(found)] = found
        mask[0, : len(found)] = 1
        values = runners[length](input_ids=ids, attention_mask=mask)
        return likeliest(next(iter(values.values()))[0], labels)

    return answer


BY_HAND = {"onnxruntime": by_hand_onnxruntime, "litert": by_hand_litert}


def measure(path: Path, rounds: int) -> list[Row]:
    """Rows for the first variant of each engine in the bundle."""
    bundle = verify(open_bundle(path))
    texts = (SHORT, *bundle.manifest.golden.raw[:8])
    rows: list[Row] = []
    for backend, write in BY_HAND.items():
        variant = next((v for v in bundle.manifest.variants if v.backend == backend), None)
        if variant is None:
            continue
        with edge_runtime.load(path, variant=variant.id) as model:
            times = interleave((write(bundle, variant), model), texts, rounds)
        medians = [[statistics.median(runs) for runs in pair] for pair in times]
        ratios = [ours / hand for hand, ours in medians]
        added = [1e6 * (ours - hand) for hand, ours in medians]
        rows += [
            Row(f"{variant.id}: by hand, two words", 1e3 * medians[0][0], "ms"),
            at_most(f"{variant.id}: load()(text) / by hand, two words", ratios[0], "x", GOAL),
            Row(
                f"{variant.id}: by hand, golden texts",
                1e3 * statistics.median(hand for hand, _ in medians[1:]),
                "ms",
            ),
            at_most(
                f"{variant.id}: load()(text) / by hand, golden texts",
                statistics.median(ratios[1:]),
                "x",
                GOAL,
            ),
            Row(f"{variant.id}: added", statistics.median(added), "µs"),
        ]
    return rows


def interleave(
    pair: Sequence[Callable[[str], object]], texts: Sequence[str], rounds: int
) -> list[list[list[float]]]:
    """Seconds, by text, then by member of `pair`, about one for each round.

    Turns are BLOCK answers long and the first of each is not counted: the two models are larger
    than the caches, and each turn finds them full of the other one.
    """
    times: list[list[list[float]]] = [[[] for _ in pair] for _ in texts]
    for turn in range(-(-rounds // (BLOCK - 1)) + 1):
        for index, text in enumerate(texts):
            for member in (0, 1) if turn % 2 else (1, 0):
                for answer in range(BLOCK):
                    start = time.perf_counter()
                    pair[member](text)
                    if turn and answer:
                        times[index][member].append(time.perf_counter() - start)
    return times


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path, help="a text classifier, folder or .edge file")
    parser.add_argument("--rounds", type=int, default=200, help="answers by each, per text")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    rows = measure(args.bundle, args.rounds)
    show("Overhead of edge_runtime.load", rows, as_json=args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
