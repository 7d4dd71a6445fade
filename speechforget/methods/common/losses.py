"""Compute losses and draws that methods share, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from speechforget import seeding
from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.recognition.ctc import frames_of, is_text, text_loss


def mean(values: Tensor, batch: Batch) -> Tensor:
    """Average one value per utterance, (batch,), over a step's batch; with several ranks, return this rank's part.

    Every method's loss takes its mean here, or sums `values * batch.weights` itself. If ranks have unequal shares,
    averaging each rank's own mean would give a different number.
    """
    return values.mean() if batch.weights is None else (values * batch.weights.to(values.dtype)).sum()


def step_size(batch: Batch) -> float:
    """Count the utterances of a step's batch over all ranks that share it."""
    return float(len(batch.labels)) if batch.weights is None else 1 / float(batch.weights[0])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute cross-entropy in nats for each utterance, (batch,): logits (batch, classes), labels (batch,).

    For texts, logits are (batch, frames, tokens), labels (batch, letters), and the loss is in nats per frame: about as
    large as that of a class, so learning rates carry over.
    """
    if is_text(logits):
        return text_loss(logits, labels) / frames_of(logits)
    return functional.cross_entropy(logits, labels, reduction="none")


def divergence(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the Kullback-Leibler divergence of each utterance in nats, (batch,): sum_k p_k log(p_k / q_k).

    p = softmax(teacher_logits / temperature), q = softmax(student_logits / temperature); both logits (batch, classes).
    With the teacher first, the student must cover all classes that the teacher finds likely. There is no factor
    temperature^2, and the teacher gets no gradient. The `mean` over the batch is what torch calls `batchmean`.
    For texts, logits are (batch, frames, tokens), and the divergence is the mean over the frames of an utterance. Their
    sum bounds the divergence between the texts from above, because frames are independent.
    Source: Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015.
    """
    teacher = functional.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    student = functional.log_softmax(student_logits / temperature, dim=-1)
    found = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return found.sum(dim=1) / frames_of(teacher_logits) if is_text(teacher_logits) else found


def barred(labels: Tensor, classes: int, forgotten: Collection[int]) -> Tensor:
    """Mark the classes that are not valid answers for an utterance to forget, bool (batch, classes).

    They are the utterance's own class and those in `forgotten`. labels (batch,): true classes, out of `classes`.
    Raises UserError if no class remains.
    """
    numbers = torch.arange(classes, device=labels.device)
    mask = (numbers == labels[:, None]) | torch.isin(
        numbers, torch.tensor(sorted(forgotten), dtype=torch.int64, device=labels.device)
    )
    if bool(mask.all(dim=1).any()):
        raise UserError(
            f"No wrong class remains: {len(forgotten)} of {classes} classes are forgotten; keep at least two classes."
        )
    return mask


def random_labels(
    rows: Tensor, labels: Tensor, classes: int, forgotten: Collection[int], seed: int, epoch: int
) -> Tensor:
    """Draw wrong labels, (batch,) int64, uniform over the classes that are neither true nor in `forgotten`.

    rows (batch,): utterance numbers; labels (batch,): their true classes, out of `classes`.
    A label depends on (seed, epoch, utterance number) only, not on the batch or the process.
    Raises UserError if no class remains to draw from.
    """
    allowed = torch.tensor([number for number in range(classes) if number not in forgotten], dtype=torch.int64)
    truth = labels.cpu()
    is_truth = allowed[None, :] == truth[:, None]
    choices = len(allowed) - is_truth.sum(dim=1)
    if len(choices) and int(choices.min()) < 1:
        raise UserError(
            f"No wrong label remains: {len(forgotten)} of {classes} classes are forgotten; keep at least two classes."
        )
    drawn = torch.from_numpy(seeding.uniform(rows.cpu().numpy(), 1, seed, "random label", epoch)[:, 0])
    position = (drawn * choices).long()
    # Skip the true class if it is among the allowed ones.
    own = torch.where(is_truth.any(dim=1), is_truth.int().argmax(dim=1), len(allowed))
    return allowed[position + (position >= own)].to(labels.device)
