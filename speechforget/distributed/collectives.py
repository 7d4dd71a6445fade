"""The processes that work on one artefact together, as sums: who am I of how many, and what do all of us have together.

One process alone is rank 0 of 1, and every function here then gives back what it was given. A group is joined by `worker.py`; nobody else needs
to know of it. Sums are the same to the bit on all ranks, so replicas that start equal stay equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

BUCKET = 25_000_000  # gradient entries summed at once; bounds the copy that summing needs

_state = {"alone": False}


def world() -> int:
    """How many ranks there are."""
    return distributed.get_world_size() if distributed.is_initialized() and not _state["alone"] else 1


def rank() -> int:
    """The number of this one, from 0."""
    return distributed.get_rank() if distributed.is_initialized() and not _state["alone"] else 0


@contextmanager
def alone() -> Iterator[None]:
    """Within it, this process is rank 0 of 1: for work that every rank does whole."""
    before = _state["alone"]
    _state["alone"] = True
    try:
        yield
    finally:
        _state["alone"] = before


def part_of_loss(whole: bool, loss: Callable[[], Tensor]) -> Tensor:
    """This rank's part of a step's loss; the parts of all ranks sum to it, and so do their gradients.

    whole: whether each rank holds the whole batch of the step (one too small to be shared out) instead of its share.
    """
    ranks = world()
    if ranks == 1 or not whole:
        return loss()
    with alone():
        return loss() / ranks


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, on all of them; no gradient goes through it."""
    if world() == 1:
        return tensor
    result = tensor.detach().clone().contiguous()
    distributed.all_reduce(result)
    return result


def agreed(value: Any) -> Any:
    """Rank 0's value, on all ranks: for what only one process can decide, such as whether a file exists."""
    if world() == 1:
        return value
    parcel = [value]
    distributed.broadcast_object_list(parcel, src=0)
    return parcel[0]


def barrier() -> None:
    """Returns when every rank has come here."""
    if world() > 1:
        distributed.barrier()


@torch.no_grad()
def share_state(*modules: nn.Module) -> None:
    """Gives every rank rank 0's parameters and buffers."""
    if world() == 1:
        return
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            whole = tensor.contiguous()  # itself, unless it is a view of something else
            distributed.broadcast(whole, src=0)
            if whole is not tensor:
                tensor.copy_(whole)


@torch.no_grad()
def sum_gradients(*models: nn.Module) -> None:
    """Replaces each gradient by its sum over all ranks. What has a gradient on any rank has one on all; what has none anywhere keeps none."""
    if world() == 1:
        return
    for bucket in _buckets(
        [parameter for model in models for parameter in model.parameters() if parameter.requires_grad]
    ):
        device, kind = bucket[0].device, bucket[0].dtype
        present = torch.tensor([float(parameter.grad is not None) for parameter in bucket], device=device, dtype=kind)
        pieces = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in bucket]
        flat = torch.cat([*(piece.reshape(-1) for piece in pieces), present])
        distributed.all_reduce(flat)
        *sums, present = flat.split([*(parameter.numel() for parameter in bucket), len(bucket)])
        for parameter, found, gradient in zip(bucket, present.tolist(), sums, strict=True):
            if found:
                parameter.grad = gradient.view_as(parameter).clone()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """Neighbours of one kind and device, about BUCKET entries together."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        alike = bucket and (bucket[0].dtype, bucket[0].device) == (parameter.dtype, parameter.device)
        if bucket and (not alike or sum(one.numel() for one in bucket) + parameter.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


@torch.no_grad()
def check_replicas(model: nn.Module, moment: str) -> None:
    """Raises RuntimeError where the ranks' weights and buffers are not equal to the bit: a model made of several would be wrong."""
    if world() == 1:
        return
    sums = [tensor.double().sum() for tensor in [*model.parameters(), *model.buffers()]]
    sums += [tensor.double().square().sum() for tensor in model.parameters()]
    mine = torch.stack(sums)
    low, high = mine.clone(), mine.clone()
    distributed.all_reduce(low, op=distributed.ReduceOp.MIN)
    distributed.all_reduce(high, op=distributed.ReduceOp.MAX)
    if not torch.equal(low, high) and not torch.isnan(mine).any():
        raise RuntimeError(
            f"The {world()} replicas of the model differ {moment}: something in the method or the model is not summed over ranks"
        )
