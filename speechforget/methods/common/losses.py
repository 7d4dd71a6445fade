"""The mathematics that methods share, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from speechforget import seeding
from speechforget.batch import Batch
from speechforget.errors import UserError


def mean(values: Tensor, batch: Batch) -> Tensor:
    """The mean over a step's batch of one value an utterance, (batch,); where ranks share the batch, this rank's part of it.

    Every method's loss takes its mean here (or sums `values * batch.weights` itself): the mean of each rank's own mean would be another number
    where the shares are unequal.
    """
    return values.mean() if batch.weights is None else (values * batch.weights.to(values.dtype)).sum()


def step_size(batch: Batch) -> float:
    """How many utterances a step's batch has over all ranks that share it."""
    return float(len(batch.labels)) if batch.weights is None else 1 / float(batch.weights[0])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats for each utterance, (batch,): logits (batch, classes), labels (batch,)."""
    return functional.cross_entropy(logits, labels, reduction="none")


def divergence(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the student from the teacher in nats, for each utterance: sum_k p_k log(p_k / q_k), (batch,).

    p = softmax(teacher_logits / temperature), q = softmax(student_logits / temperature); both logits (batch, classes). The direction is
    teacher first, so the student is drawn to cover what the teacher finds likely; there is no factor temperature^2. No gradient goes to the
    teacher. Its `mean` over the batch is what torch calls `batchmean`.
    Source: Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015.
    """
    teacher = functional.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    student = functional.log_softmax(student_logits / temperature, dim=-1)
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)


def barred(labels: Tensor, classes: int, forgotten: Collection[int]) -> Tensor:
    """Which classes are no answer for an utterance that is to be forgotten: its own and those in `forgotten`; bool (batch, classes).

    labels (batch,): true classes, out of `classes`. Raises UserError where no class is left.
    """
    numbers = torch.arange(classes, device=labels.device)
    mask = (numbers == labels[:, None]) | torch.isin(
        numbers, torch.tensor(sorted(forgotten), dtype=torch.int64, device=labels.device)
    )
    if bool(mask.all(dim=1).any()):
        raise UserError(
            f"No wrong class is left out of {classes} of which {len(forgotten)} are forgotten: keep at least two classes."
        )
    return mask


def random_labels(
    rows: Tensor, labels: Tensor, classes: int, forgotten: Collection[int], seed: int, epoch: int
) -> Tensor:
    """Wrong labels, (batch,) int64: each uniform over the classes that are neither the utterance's own nor in `forgotten`.

    rows (batch,): utterance numbers; labels (batch,): their true classes, out of `classes`. A label depends on (seed, epoch, utterance
    number) alone, so neither the batch nor the process it lands in matters. Raises UserError where no class is left to draw.
    """
    allowed = torch.tensor([number for number in range(classes) if number not in forgotten], dtype=torch.int64)
    truth = labels.cpu()
    is_truth = allowed[None, :] == truth[:, None]
    choices = len(allowed) - is_truth.sum(dim=1)
    if len(choices) and int(choices.min()) < 1:
        raise UserError(
            f"No wrong label is left to draw from {classes} classes of which {len(forgotten)} are forgotten: keep at least two classes."
        )
    drawn = torch.from_numpy(seeding.uniform(rows.cpu().numpy(), 1, seed, "random label", epoch)[:, 0])
    position = (drawn * choices).long()
    # The true class, where it is among the allowed, is stepped over.
    own = torch.where(is_truth.any(dim=1), is_truth.int().argmax(dim=1), len(allowed))
    return allowed[position + (position >= own)].to(labels.device)
