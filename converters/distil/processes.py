"""One process or many: the thin layer over `accelerate` that training goes through.

Alone, it adds nothing to a step. Under `accelerate launch`, each process takes its part of every
batch and the gradients are averaged, so the batch that a recipe names is the batch of all processes
together, and the course of the loss is the same whatever their number.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
)

from converters.ort import host_threads

PATIENCE = datetime.timedelta(days=2)
"""How long processes wait for the one that computes what they all need."""


class Processes:
    """The processes of this run, and which one this is."""

    def __init__(self) -> None:
        # A head that no loss asks for gets no gradient; only where batches are split must it know.
        self._accelerator = Accelerator(
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ]
        )

    @property
    def count(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def first(self) -> bool:
        """Whether this process is the one that tells and, on its host, the one that writes."""
        return bool(self._accelerator.is_main_process)

    @property
    def first_here(self) -> bool:
        """Whether this is the first process of its host."""
        return bool(self._accelerator.is_local_main_process)

    @property
    def device(self) -> torch.device:
        return torch.device(self._accelerator.device)

    def share_cores(self) -> None:
        """Torch's threads of this process: its part of the host's cores."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        torch.set_num_threads(max(1, host_threads() // here))

    def prepare(self, module: torch.nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """Both, on this process's device, tied to the other processes' where there are any."""
        return self._accelerator.prepare(module, optimizer)  # type: ignore[no-any-return]

    def mine(self, batch: Sequence[int]) -> tuple[list[int], float]:
        """This process's rows of a batch and the weight of each.

        A batch smaller than the number of processes leaves some without; they repeat a row, with
        weight 0, because all must take the step.
        """
        rows = list(batch[self._accelerator.process_index :: self.count])
        return (rows, 1.0) if rows else (list(batch[:1]), 0.0)

    def everyone(self, rows: torch.Tensor, weight: float) -> torch.Tensor:
        """The rows (rows, width) of all processes, with gradient, in the order of the processes."""
        if self.count == 1:
            return rows
        rows = rows if weight else rows[:0]
        counts = [0] * self.count
        counts[self._accelerator.process_index] = len(rows)
        sizes = torch.tensor(counts, device=rows.device)
        torch.distributed.all_reduce(sizes)
        before = int(sizes[: self._accelerator.process_index].sum())
        whole = rows.new_zeros(int(sizes.sum()), rows.shape[1])
        place = torch.arange(before, before + len(rows), device=rows.device)
        total: torch.Tensor = _Sum.apply(  # type: ignore[no-untyped-call]
            whole.index_add(0, place, rows)
        )
        return total

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of `loss`, this process's share of the sum over all; they are summed."""
        self._accelerator.backward(loss * self.count)  # which the average over processes undoes

    def total(self, value: torch.Tensor) -> float:
        """The sum of a number over all processes."""
        if self.count > 1:
            value = self._accelerator.reduce(value, reduction="sum")
        return float(value)

    def told(self, value: Any) -> Any:
        """What the first process holds, on every process."""
        if self.count == 1:
            return value
        box = [value]
        broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Until every process has come here."""
        self._accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def first_here_goes_first(self) -> Iterator[None]:
        """The block, on the first process of each host before the others of that host."""
        with self._accelerator.local_main_process_first():
            yield


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient, as each of them uses the sum."""

    @staticmethod
    def forward(context: Any, value: torch.Tensor) -> torch.Tensor:
        """The sum, of the shape of `value`."""
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        """What all processes want of this one's value."""
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total
