"""Rank, world size and sums over the ranks that build one artefact together.

A single process is rank 0 of 1, and every function here then returns its input. `worker` joins the process group.
Sums are equal to the bit on all ranks, so replicas that start equal stay equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

BUCKET = 25_000_000  # gradient entries per all-reduce; limits the memory of the flat copy

_state = {"alone": False}


def world() -> int:
    """Return the number of ranks."""
    return distributed.get_world_size() if distributed.is_initialized() and not _state["alone"] else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() and not _state["alone"] else 0


@contextmanager
def alone() -> Iterator[None]:
    """Make this process rank 0 of 1 within the block, for work that every rank does on the whole batch."""
    before = _state["alone"]
    _state["alone"] = True
    try:
        yield
    finally:
        _state["alone"] = before


def part_of_loss(whole: bool, loss: Callable[[], Tensor]) -> Tensor:
    """Return this rank's part of a step's loss; the parts of all ranks sum to the loss, and so do their gradients.

    whole: whether each rank has the whole batch of the step (one too small to be split) instead of its share.
    """
    ranks = world()
    if ranks == 1 or not whole:
        return loss()
    with alone():
        return loss() / ranks


def total(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks; every rank gets the sum. No gradient flows through it."""
    if world() == 1:
        return tensor
    result = tensor.detach().clone().contiguous()
    distributed.all_reduce(result)
    return result


def agreed(value: Any) -> Any:
    """Return rank 0's value on all ranks, for what one process must decide, such as whether a file exists."""
    if world() == 1:
        return value
    parcel = [value]
    distributed.broadcast_object_list(parcel, src=0)
    return parcel[0]


def barrier() -> None:
    """Wait for all ranks."""
    if world() > 1:
        distributed.barrier()


@torch.no_grad()
def share_state(*modules: nn.Module) -> None:
    """Copy the parameters and buffers of rank 0 to all ranks."""
    if world() == 1:
        return
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            whole = tensor.contiguous()  # a copy only where the tensor is a view
            distributed.broadcast(whole, src=0)
            if whole is not tensor:
                tensor.copy_(whole)


@torch.no_grad()
def sum_gradients(*models: nn.Module) -> None:
    """Replace each gradient by its sum over all ranks. A parameter without a gradient on every rank keeps none."""
    if world() == 1:
        return
    trained = [parameter for model in models for parameter in model.parameters() if parameter.requires_grad]
    for bucket in _buckets(trained):
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
    """Yield groups of consecutive parameters of one dtype and device, about BUCKET entries each."""
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
    """Raise RuntimeError where weights or buffers of the ranks differ in any bit: the saved model would be wrong."""
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
            f"The {world()} replicas of the model differ {moment}: "
            "something in the method or the model is not summed over ranks"
        )
