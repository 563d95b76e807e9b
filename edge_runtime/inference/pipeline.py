"""A bundle's variant, ready to answer: preprocess, engine, postprocess, as the manifest declares.

Two ways in. What the task takes (texts, pictures, sound, rows), for its typed results; tensors,
checked against the manifest's specs and run as they are. Both pad to a length that the engine has
and cut what padding added, and both cut what was asked into runs of bounded size. It takes a
VerifiedBundle and reads only through it, so no byte is parsed that was not verified.

A caller with others beside it gives a `Turn`: each run of the engine happens inside one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TypeAlias

import numpy as np

from edge_runtime.bundle.manifest import Manifest, TensorSpec, Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.inference.backend import Account, Session, Tensor, load_backend
from edge_runtime.inference.batching import fit, most_rows, pad, plan
from edge_runtime.inference.tasks.items import Item, collate
from edge_runtime.inference.tasks.results import FloatArray, Raw, Result
from edge_runtime.inference.tasks.table import Reader, Steps, Task, declared_steps
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
        reader: Reader,
        session: Session,
    ) -> None:
        self.manifest = manifest
        self.variant = variant
        self.steps = steps
        self._reader = reader
        self._session = session
        # A model whose batch is fixed takes one row at a time, whatever the engine could.
        free = any("batch" in spec.shape for spec in manifest.inputs)
        self._max_batch = session.max_batch if free else 1

    @classmethod
    def open(
        cls,
        bundle: VerifiedBundle,
        variant: Variant,
        engine: Engine | None = None,
        *,
        watched: bool = False,
    ) -> Pipeline:
        """Load `variant` of `bundle`, with the profile's `engine` where there is a profile.

        Args:
            watched: keep the account that `account` gives.

        Raises:
            IncompatibleError: unknown task, step, backend or option; engine not installed; a
                model or a file of a step that cannot be loaded.
            UntrustedError: a file is not what was verified.
        """
        steps = declared_steps(bundle.manifest)
        backend = load_backend(variant.backend)
        session = backend.load(
            bundle.read(variant.file), bundle.manifest, variant, engine, watched=watched
        )
        try:
            reader = steps.open(bundle.read, session.lengths[-1] if session.lengths else None)
        except BaseException:
            session.close()
            raise
        return cls(bundle.manifest, variant, steps, reader, session)

    @property
    def accelerator(self) -> Accelerator:
        """What was asked for and what runs."""
        return self._session.accelerator

    def account(self) -> Account | None:
        """Where the operators ran, see `Session`.

        Raises:
            DeviceError: the engine does not tell.
        """
        return self._session.account()

    @property
    def task(self) -> Task:
        """What goes in and comes out, as clients see it; the tensors are in the manifest."""
        return self.steps.task

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token counts that the engine has entry points for; () where all run."""
        return self._session.lengths

    @property
    def takes(self) -> str:
        """What one input is, a key of `tasks.table.INPUTS`."""
        return self.steps.takes

    def read(self, raw: Raw) -> Item:
        """One input as the model will see it.

        Raises:
            InputError: as for a call.
        """
        return self._reader(raw)

    @property
    def max_length(self) -> int:
        """Tokens of the longest text; what is longer was cut. 0 where the task has none."""
        return self._reader.max_length

    def __call__(self, raws: Sequence[Raw], turn: Turn = nullcontext) -> list[Result]:
        """One result for each input, in order; like lengths share a run where the engine may.

        Raises:
            InputError: one is not what the task takes, or larger than the limits; says which.
            DeviceError: the engine failed, or refuses what the steps made of an input.
        """
        if isinstance(raws, (str, bytes)):
            raise RuntimeError("a pipeline takes a list of inputs, not one")
        if self.steps.takes == "tensors":
            raise InputError(f"task {self.task.name}: takes the model's own tensors only")
        if self.steps.hop:
            return self._whole(raws, turn)
        if len(raws) == 1:
            item = self._reader(raws[0])
            return self._answer([item], turn)
        items = []
        for index, raw in enumerate(raws):
            try:
                items.append(self._reader(raw))
            except InputError as reason:
                raise self._named(index, raws, reason) from None
        results: dict[int, Result] = {}
        sizes = [item.length for item in items]
        for indexes, _ in plan(sizes, self._session.lengths, self._max_batch):
            answers = self._answer([items[index] for index in indexes], turn)
            results.update(zip(indexes, answers, strict=True))
        return [results[index] for index in range(len(items))]

    def numbers(self, raw: Raw, turn: Turn = nullcontext) -> FloatArray:
        """What the model says of one input before the last step makes a result of it.

        Raises:
            InputError, DeviceError: as a call.
        """
        values, _ = self._through([self._reader(raw)], turn)
        numbers: FloatArray = self.steps.numbers(values, 1)[0]
        return numbers

    def _whole(self, raws: Sequence[Raw], turn: Turn) -> list[Result]:
        """One result for each input, of all its windows; a few windows are read at a time."""
        results = []
        most = most_rows(1, self._max_batch)
        for index, raw in enumerate(raws):
            parts: list[Result] = []
            try:
                windows = self._reader.windows(raw, self.steps.hop)
                while items := list(islice(windows, most)):
                    parts += self._answer(items, turn)
            except InputError as reason:
                raise self._named(index, raws, reason) from None
            results.append(self.steps.whole(parts))
        return results

    def _named(self, index: int, raws: Sequence[Raw], reason: InputError) -> InputError:
        """`reason` with the input that it is about, where there are several."""
        where = f"{self.steps.takes} {index} of {len(raws)}: " if len(raws) > 1 else ""
        return InputError(f"{where}{reason}")

    def _answer(self, items: list[Item], turn: Turn) -> list[Result]:
        """Results of `items`, which go through the engine in one run."""
        values, feeds = self._through(items, turn)
        return self.steps.results(values, feeds, items)

    def _through(
        self, items: list[Item], turn: Turn
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The model's outputs for `items`, and what it was fed, in one run."""
        longest = max(item.length for item in items)
        length = fit(longest, self._session.lengths) or longest
        feeds = collate(self.manifest.inputs, items, length, self._reader.fills)
        try:
            with turn():
                values = self._session.run(feeds)
        except InputError as reason:
            # The bundle's own steps made these numbers: nothing was asked wrongly.
            raise DeviceError(str(reason)) from None
        return values, feeds

    def run(self, feeds: Mapping[str, Tensor], turn: Turn = nullcontext) -> dict[str, Tensor]:
        """The model's outputs for tensors that match the manifest's inputs; no steps are applied.

        Raises:
            InputError: a tensor is missing or unknown, its dtype or shape is wrong, or it holds
                what is no token id.
            DeviceError: the engine failed.
        """
        sizes = check_feeds(self.manifest.inputs, feeds)
        self._reader.check(feeds)
        length = sizes.get("sequence", 0)
        padded = fit(length, self._session.lengths) if length else length
        if padded is None:
            raise InputError(
                f"input: a sequence of {length}, variant {self.variant.id} runs at most "
                f"{self._session.lengths[-1]}"
            )
        batch = sizes.get("batch", 1)
        most = most_rows(padded, self._max_batch)
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
        fill = self._reader.fills.get(spec.name, 0)
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
