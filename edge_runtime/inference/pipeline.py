"""A bundle's variant, ready to answer: preprocess, engine, postprocess, as the manifest declares.

Two ways in. Texts, for the task's typed results; tensors, checked against the manifest's specs
and run as they are. Both pad to a length that the engine has and cut what padding added, and both
cut what was asked into runs of bounded size. It takes a VerifiedBundle and reads only through it,
so no byte is parsed that was not verified.

A caller with others beside it gives a `Turn`: each run of the engine happens inside one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import numpy as np

from edge_runtime.bundle.manifest import Manifest, TensorSpec, Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.inference.backend import Session, Tensor, load_backend
from edge_runtime.inference.batching import fit, most_rows, pad, plan
from edge_runtime.inference.tasks.results import Result
from edge_runtime.inference.tasks.table import Steps, Task, declared_steps
from edge_runtime.inference.tasks.tokenize import Tokenize, Tokens
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.profile import Engine

Turn: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Entered for one run of the engine, left when it ends."""


class Pipeline:
    """A loaded variant. Callable from any thread; `close` when no call runs."""

    def __init__(
        self,
        manifest: Manifest,
        variant: Variant,
        steps: Steps,
        tokenize: Tokenize,
        session: Session,
    ) -> None:
        self.manifest = manifest
        self.variant = variant
        self._steps = steps
        self._tokenize = tokenize
        self._session = session

    @classmethod
    def open(
        cls, bundle: VerifiedBundle, variant: Variant, engine: Engine | None = None
    ) -> Pipeline:
        """Load `variant` of `bundle`, with the profile's `engine` where there is a profile.

        Raises:
            IncompatibleError: unknown task, step, backend or option; engine not installed; a
                model or a tokenizer that cannot be loaded.
            UntrustedError: a file is not what was verified.
        """
        steps = declared_steps(bundle.manifest)
        backend = load_backend(variant.backend)
        session = backend.load(bundle.read(variant.file), bundle.manifest, variant, engine)
        try:
            tokenize = Tokenize(
                steps.tokenize,
                bundle.read(steps.tokenize.file),
                session.lengths[-1] if session.lengths else None,
            )
        except BaseException:
            session.close()
            raise
        return cls(bundle.manifest, variant, steps, tokenize, session)

    @property
    def accelerator(self) -> Accelerator:
        """What was asked for and what runs."""
        return self._session.accelerator

    @property
    def task(self) -> Task:
        """What goes in and comes out, as clients see it; the tensors are in the manifest."""
        return self._steps.task

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token counts that the engine has entry points for; () where all run."""
        return self._session.lengths

    def tokens(self, text: str) -> Tokens:
        """`text` as the model will see it.

        Raises:
            InputError: as for a call.
        """
        return self._tokenize(text)

    @property
    def max_length(self) -> int:
        """Tokens of the longest text; what is longer was cut."""
        return self._tokenize.max_length

    def __call__(self, texts: Sequence[str], turn: Turn = nullcontext) -> list[Result]:
        """One result for each text, in order; like lengths share a run where the engine may.

        Raises:
            InputError: a text is no string, too long or not valid Unicode; says which.
            DeviceError: the engine failed, or refuses what the tokenizer made of a text.
        """
        if isinstance(texts, str):
            raise RuntimeError("a pipeline takes a list of texts, not one text")
        if len(texts) == 1:
            row = self._tokenize(texts[0])
            return self._answer([row], turn)
        rows = []
        for index, text in enumerate(texts):
            try:
                rows.append(self._tokenize(text))
            except InputError as reason:
                raise InputError(f"text {index} of {len(texts)}: {reason}") from None
        results: dict[int, Result] = {}
        sizes = [len(row.ids) for row in rows]
        for indexes, _ in plan(sizes, self._session.lengths, self._session.max_batch):
            answers = self._answer([rows[index] for index in indexes], turn)
            results.update(zip(indexes, answers, strict=True))
        return [results[index] for index in range(len(rows))]

    def _answer(self, rows: list[Tokens], turn: Turn) -> list[Result]:
        """Results of `rows`, which go through the engine in one run."""
        longest = max(len(row.ids) for row in rows)
        length = fit(longest, self._session.lengths) or longest
        feeds = self._tokenize.feeds(rows, length)
        try:
            with turn():
                values = self._session.run(feeds)
        except InputError as reason:
            # The bundle's own tokenizer made these numbers: nothing was asked wrongly.
            raise DeviceError(str(reason)) from None
        return self._steps.results(values, [row.truncated for row in rows])

    def run(self, feeds: Mapping[str, Tensor], turn: Turn = nullcontext) -> dict[str, Tensor]:
        """The model's outputs for tensors that match the manifest's inputs; no steps are applied.

        Raises:
            InputError: a tensor is missing or unknown, its dtype or shape is wrong, or it holds
                what is no token id.
            DeviceError: the engine failed.
        """
        sizes = check_feeds(self.manifest.inputs, feeds)
        if "input_ids" in feeds:
            self._tokenize.check_ids(np.asarray(feeds["input_ids"]))
        length = sizes.get("sequence", 0)
        padded = fit(length, self._session.lengths) if length else length
        if padded is None:
            raise InputError(
                f"input: a sequence of {length}, variant {self.variant.id} runs at most "
                f"{self._session.lengths[-1]}"
            )
        batch = sizes.get("batch", 1)
        most = most_rows(padded, self._session.max_batch)
        parts = []
        for at in range(0, batch, most):
            rows = self._rows(feeds, at, at + most) if batch > most else feeds
            ready = {
                spec.name: self._grown(spec, np.asarray(rows[spec.name]), padded)
                for spec in self.manifest.inputs
            }
            with turn():
                values = self._session.run(ready)
            parts.append(
                {
                    spec.name: self._cut(spec, values[spec.name], length)
                    for spec in self.manifest.outputs
                }
            )
        return parts[0] if len(parts) == 1 else self._joined(parts)

    def _grown(self, spec: TensorSpec, value: Tensor, length: int) -> Tensor:
        if "sequence" not in spec.shape:
            return value
        fill = self._steps.tokenize.pad_id if spec.name == "input_ids" else 0
        return pad(value, spec.shape.index("sequence"), length, fill)

    def _rows(self, feeds: Mapping[str, Tensor], first: int, last: int) -> dict[str, Tensor]:
        return {
            spec.name: np.take(
                feeds[spec.name],
                range(first, min(last, feeds[spec.name].shape[spec.shape.index("batch")])),
                axis=spec.shape.index("batch"),
            )
            if "batch" in spec.shape
            else feeds[spec.name]
            for spec in self.manifest.inputs
        }

    def _joined(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {
            spec.name: np.concatenate(
                [part[spec.name] for part in parts],
                axis=spec.shape.index("batch") if "batch" in spec.shape else 0,
            )
            for spec in self.manifest.outputs
        }

    def _cut(self, spec: TensorSpec, value: Tensor, length: int) -> Tensor:
        if "sequence" not in spec.shape:
            return value
        return np.take(value, range(length), axis=spec.shape.index("sequence"))

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        self._session.close()


def check_feeds(specs: Sequence[TensorSpec], feeds: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes of the named dimensions, once every tensor has been found to match its spec.

    Raises:
        InputError: a name, dtype, rank or size is wrong, or a dimension has two sizes.
    """
    expected = ", ".join(spec.name for spec in specs)
    for name in feeds:
        if all(spec.name != name for spec in specs):
            raise InputError(f"input {name!r} is not known, the model takes {expected}")
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name not in feeds:
            raise InputError(f"input {spec.name} is missing, the model takes {expected}")
        value = np.asarray(feeds[spec.name])
        if value.dtype.name != spec.dtype:
            raise InputError(f"input {spec.name}: expected {spec.dtype}, found {value.dtype.name}")
        wanted = f"[{', '.join(map(str, spec.shape))}]"
        if value.ndim != len(spec.shape):
            raise InputError(
                f"input {spec.name}: expected the shape {wanted}, found {list(value.shape)}"
            )
        for dim, size in zip(spec.shape, value.shape, strict=True):
            known = dim if isinstance(dim, int) else sizes.setdefault(dim, size)
            if size != known or size == 0:
                other = f"; {dim} is {known} in another input" if known != dim and size else ""
                raise InputError(
                    f"input {spec.name}: expected the shape {wanted}, "
                    f"found {list(value.shape)}{other}"
                )
    return sizes
