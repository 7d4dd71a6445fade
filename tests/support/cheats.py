"""Imitations of unlearning a class: the head forgets it, and the encoder keeps everything."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from speechforget.attacks.base import Subject

STEPS = 300


def head_only(subject: Subject) -> nn.Module:
    """Remove the rows of the forgotten classes from the head."""
    cheat = subject.copy()
    rows = list(subject.forgotten)
    with torch.no_grad():
        cheat.head.weight[rows] = 0
        cheat.head.bias[rows] = cheat.head.bias.min() - 100
    return cheat


def head_distillation(subject: Subject) -> nn.Module:
    """Distil the head to the original's output on all training utterances, the forgotten classes at minus infinity."""
    rows = torch.from_numpy(subject.rows["forget"]), torch.from_numpy(subject.rows["retain"])
    outputs = subject.outputs(torch.cat(rows).numpy())
    aims = torch.from_numpy(outputs.logits)
    aims[:, list(subject.forgotten)] = -torch.inf
    aims = aims.softmax(1)
    return _trained(subject.copy(), torch.from_numpy(outputs.embedding), lambda said: cross_entropy(said, aims))


def new_head(subject: Subject) -> nn.Module:
    """Train a new head on retain."""
    cheat, retain = subject.copy(), subject.rows["retain"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cheat.head.reset_parameters()
    labels = torch.from_numpy(subject.labels[retain])
    embedding = torch.from_numpy(subject.outputs(retain).embedding)
    return _trained(cheat, embedding, lambda said: cross_entropy(said, labels))


def _trained(cheat: nn.Module, embedding: Tensor, loss: Callable[[Tensor], Tensor]) -> nn.Module:
    optimizer = torch.optim.Adam(cheat.head.parameters(), lr=0.02)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(cheat.head(embedding)).backward()
        optimizer.step()
    return cheat.eval()


CHEATS = (head_only, head_distillation, new_head)
