"""Take channels out of a convolutional network, with everything that depends on them.

A channel of one convolution is an input of the next, an entry of a norm, and through a residual sum
a channel of others; Torch-Pruning's dependency graph (Fang et al., "DepGraph", CVPR 2023) finds
those groups by tracing an example. What reaches the network's output is left alone, so the result
stands wherever the whole network did.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from converters.quiet import quiet
from edge_runtime.errors import InputError

CRITERIA = ("l1", "l2")


def prune_channels(
    module: torch.nn.Module,
    example: torch.Tensor,
    *,
    ratio: float,
    criterion: str = "l2",
    round_to: int = 8,
) -> torch.nn.Module:
    """A copy of `module`, in eval mode, with `ratio` of each layer's channels gone.

    Args:
        module: any traceable network with one tensor in and one out.
        example: one input, batch first; any values.
        ratio: 0..1, share of the channels of each convolution and linear map.
        criterion: "l1" or "l2" of all weights that go with a channel.
        round_to: channels left are the next lower multiple of it.

    Raises:
        InputError: `ratio` or `criterion` is none of these, the library is not installed, or the
            network cannot be traced.
    """
    if not 0 <= ratio < 1:
        raise InputError(f"channel pruning: expected a ratio of 0 or more and below 1, got {ratio}")
    if criterion not in CRITERIA:
        raise InputError(f"channel pruning: expected l1 or l2 as criterion, got {criterion!r}")
    library = _library()
    pruned = copy.deepcopy(module).eval()
    with quiet():
        try:
            expected = _shape(pruned, example)
            pruner = library.pruner.BasePruner(
                pruned,
                example,
                importance=library.importance.GroupMagnitudeImportance(p=int(criterion[1])),
                pruning_ratio=ratio,
                round_to=round_to,
                ignored_layers=_outputs(library, pruned, example),
                # The library's own defaults are dicts that it writes to.
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
            )
            pruner.step()
            found = _shape(pruned, example)
        except Exception as reason:  # of the library, of the network's own code: no common base
            first = (str(reason).strip().splitlines() or [type(reason).__name__])[0][:200]
            raise InputError(
                f"channel pruning: {type(module).__name__} cannot be traced ({first})"
            ) from None
    if found != expected:
        raise InputError(
            f"channel pruning: {type(module).__name__} would answer {found} instead of {expected}"
        )
    return pruned


def _library() -> Any:
    """Torch-Pruning, which takes seconds to import."""
    try:
        import torch_pruning
    except ImportError:
        raise InputError(
            "channel pruning needs the package torch-pruning; install edge-runtime[convert]"
        ) from None
    return torch_pruning


def _shape(module: torch.nn.Module, example: torch.Tensor) -> tuple[int, ...]:
    with torch.inference_mode():
        return tuple(module(example).shape)


def _outputs(library: Any, module: torch.nn.Module, example: torch.Tensor) -> list[torch.nn.Module]:
    """The layers whose channels are the network's answer: they reach where the graph ends."""
    graph = library.DependencyGraph().build_dependency(module, example_inputs=example)
    last = {node for node in graph.module2node.values() if not node.outputs}
    found = []
    for group in graph.get_all_groups():
        ends = any(
            dependency.target in last and not graph.is_in_channel_pruning_fn(dependency.handler)
            for dependency, _ in group
        )
        if ends:
            found += [dependency.target.module for dependency, _ in group]
    return found
