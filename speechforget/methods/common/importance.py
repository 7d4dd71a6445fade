"""Measure how much each weight of the original matters to a set of utterances, by squared or absolute gradients.

    batches:     I_i = mean over batches b of h(d_i mean over b of s),  h(g) = g^2 or |g|
    utterances:  I_i = mean over utterances u of (d_i s_u)^2

s is the score of an utterance, such as its cross-entropy, and d_i the derivative by weight i. The square of a batch's
mean gradient is the squared mean plus the variance over the batch size. So importances over batches compare only at
equal batch sizes. The last, partial batch counts as much as a whole one.
All tensors are flat, in the order of `parameters()`. They are computed on the original in evaluation mode. Sums are in
float64, so the number of ranks that share the work does not change the result.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from speechforget.batch import Batch, cut
from speechforget.errors import UserError
from speechforget.methods.base.method import Context
from speechforget.methods.common.conv_as_matmul import as_products
from speechforget.methods.common.losses import cross_entropy
from speechforget.methods.common.superloss import is_number

logger = logging.getLogger(__name__)

AUTO = "auto"
AT_ONCE = 2**24  # per-utterance gradient entries in memory at the same time: 64 MB of float32, and some copies

Score = Callable[[Tensor, Tensor], Tensor]


def squared_gradients(context: Context, name: str, batch_size: int) -> Tensor:
    """Average the squared gradient of each batch's mean cross-entropy over the batches of a set, (parameters,)."""
    return over_batches(context, name, batch_size, cross_entropy, torch.square)[0]


def absolute_output_gradients(context: Context, name: str, batch_size: int) -> Tensor:
    """Average |gradient of the batch's mean squared length of the logits| over the batches of a set, (parameters,).

    It uses no labels.
    """
    return over_batches(context, name, batch_size, squared_length, torch.abs)[0]


def squared_sample_gradients(context: Context, name: str, batch_size: int) -> Tensor:
    """Average the squared gradient of the cross-entropy over the utterances of a set, (parameters,).

    This is the diagonal of the empirical Fisher information.
    batch_size: utterances read at once; it does not change the result.
    """
    alone = PerUtterance(context, list(context.original.parameters()), cross_entropy)

    def one(batch: Batch) -> Tensor:
        return summed(alone(batch, batch.labels, lambda gradients, *_: squares(gradients)), batch)

    zero = torch.zeros(alone.width + 1, dtype=torch.float64, device=alone.device)
    total = context.total(name, batch_size, one, zero)
    return (total[:-1] / total[-1]).to(alone.kind)


def squared_length(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the squared length of each utterance's logits, (batch,); labels are unused."""
    return logits.square().sum(dim=1)


def over_batches(
    context: Context, name: str, batch_size: int, score: Score, of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, int]:
    """Average `of(gradient of the batch's mean score)` over batches, (parameters,); also count the utterances.

    Frozen weights are included.
    """
    model = copy.deepcopy(context.original).eval().requires_grad_(True)
    parameters = list(model.parameters())

    def one(batch: Batch) -> Tensor:
        values = of(batch_gradient(model, parameters, batch, score).double())
        return counted(counted(values, 1), len(batch.labels))

    zero = torch.zeros(
        sum(parameter.numel() for parameter in parameters) + 2, dtype=torch.float64, device=parameters[0].device
    )
    total = context.total(name, batch_size, one, zero)
    return (total[:-2] / total[-2]).to(parameters[0].dtype), int(total[-1])


def counted(values: Tensor, count: int) -> Tensor:
    """Append a count to the values, so that both are summed together."""
    return torch.cat([values, values.new_tensor([count])])


def summed(parts: Iterable[Tensor], batch: Batch) -> Tensor:
    """Sum the parts of a batch and append the number of its utterances."""
    total = None
    for part in parts:
        total = part if total is None else total.add_(part)
    assert total is not None
    return counted(total, len(batch.labels))


def batch_gradient(model: nn.Module, parameters: Sequence[Tensor], batch: Batch, score: Score) -> Tensor:
    """Compute the gradient of the batch's mean score, flat over the parameters; 0 for unused parameters."""
    with torch.enable_grad():
        value = score(model(*batch.inputs).logits, batch.labels).mean()
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


class _Body(nn.Module):
    """Run a classifier from its features on, or from the waveform if its frontend is trainable; count no passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        frontend = model.frontend
        self.learned = isinstance(frontend, nn.Module) and any(
            parameter.requires_grad for parameter in frontend.parameters()
        )

    def features(self, batch: Batch) -> tuple[Tensor, ...]:
        """Compute the arguments of `forward`: (features or waveform, lengths)."""
        with torch.no_grad():
            first = batch.inputs[0] if self.learned else self.model.frontend(*batch.inputs)  # type: ignore[operator]
        return (first, *batch.inputs[1:2])

    def forward(self, first: Tensor, *lengths: Tensor) -> Tensor:
        """Compute logits (batch, classes)."""
        features = self.model.frontend(first, *lengths) if self.learned else first  # type: ignore[operator]
        logits: Tensor = self.model.classify(features, *lengths).logits  # type: ignore[operator]
        return logits


class PerUtterance:
    """Compute gradients of each utterance's own score, many utterances at once.

    If the model cannot be vectorised, utterances are processed one by one.
    chosen: the original's parameters to differentiate by. width: number of entries of a gradient.
    """

    def __init__(self, context: Context, chosen: Sequence[Tensor], score: Score) -> None:
        wanted = {id(parameter) for parameter in chosen}
        names = [name for name, parameter in context.original.named_parameters() if id(parameter) in wanted]
        model = as_products(copy.deepcopy(context.original).eval().requires_grad_(False))
        for name in names:
            model.get_parameter(name).requires_grad_(True)
        self.context, self.score, self.body, self.vectorised = context, score, _Body(model), True
        self.weights = {f"model.{name}": model.get_parameter(name) for name in names}
        first = next(iter(self.weights.values()))
        self.width = sum(weight.numel() for weight in self.weights.values())
        self.kind, self.device = first.dtype, first.device

    def __call__(
        self, batch: Batch, labels: Tensor, of: Callable[[list[Tensor], Tensor, Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Yield `of(gradients, logits, labels)` for each part of the batch.

        A part's gradients are freed before the next part's are computed.
        labels: (batch,), or several for each utterance, (times, batch). In the second case each part comes `times`
        times in a row.
        Gradients have the shape (some, *shape) for each parameter; logits (some, classes); labels (some,).
        """
        count = math.ceil(len(batch.labels) * self.width / AT_ONCE)
        size = math.ceil(len(batch.labels) / min(count, len(batch.labels)))
        for start in range(0, len(batch.labels), size):
            part = cut(batch, start, start + size)
            inputs = self.body.features(part)
            for chosen in labels.view(-1, len(batch.labels))[:, start : start + size]:
                self.context.spent(len(chosen))
                yield of(*self._gradients(inputs, chosen), chosen)

    def _gradients(self, inputs: tuple[Tensor, ...], labels: Tensor) -> tuple[list[Tensor], Tensor]:
        if self.vectorised:
            try:
                return self._together(inputs, labels)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError) as error:
                # vmap raises these for control flow that depends on data, and for operations it does not support.
                self.vectorised = False
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                logger.warning(
                    "Per-utterance gradients are computed one by one, because this model cannot be vectorised: %s",
                    reason,
                )
        each = [self._alone(tuple(part[i : i + 1] for part in inputs), labels[i : i + 1]) for i in range(len(labels))]
        gradients = [torch.stack(found) for found in zip(*(one for one, _ in each), strict=True)]
        return gradients, torch.stack([logits for _, logits in each])

    def _together(self, inputs: tuple[Tensor, ...], labels: Tensor) -> tuple[list[Tensor], Tensor]:
        def value(weights: dict[str, Tensor], label: Tensor, *one: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(self.body, weights, tuple(part[None] for part in one))
            return self.score(logits, label[None])[0], logits[0]

        weights = {name: weight.detach() for name, weight in self.weights.items()}
        each = vmap(grad(value, has_aux=True), in_dims=(None, 0, *[0] * len(inputs)))
        with sdpa_kernel(SDPBackend.MATH):  # the attention kernel that can be vectorised
            gradients, logits = each(weights, labels, *inputs)
        return [gradients[name] for name in weights], logits

    def _alone(self, inputs: tuple[Tensor, ...], labels: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        with torch.enable_grad():
            logits = self.body(*inputs)
            value = self.score(logits, labels)[0]
        weights = list(self.weights.values())
        gradients = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
        return gradients, logits[0].detach()


def flat(gradients: Sequence[Tensor]) -> Tensor:
    """Flatten the gradients of `PerUtterance` to (some, parameters)."""
    return torch.cat([gradient.reshape(len(gradient), -1) for gradient in gradients], dim=1)


def squares(gradients: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """Sum the squared gradients over utterances, each times its weight (some,) if given; float64, flat over parameters.

    gradients: as `PerUtterance` gives them. They are summed in their own precision, tensor by tensor, because a float64
    copy of all of them would take longer than computing them.
    """
    ones = torch.ones_like(gradients[0].reshape(len(gradients[0]), -1)[:, 0]) if weights is None else weights
    return torch.cat([ones @ gradient.reshape(len(ones), -1).square() for gradient in gradients]).double()


def movable(model: nn.Module) -> list[nn.Parameter]:
    """List the parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def pieces(flat: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Cut a flat tensor over some parameters into their shapes."""
    shapes = list(parameters)
    return [
        piece.view_as(shape)
        for piece, shape in zip(flat.split([shape.numel() for shape in shapes]), shapes, strict=True)
    ]


def top(scores: Tensor, share: float) -> Tensor:
    """Mark exactly the floor(share * n) largest of the n scores with True; of equal scores, the first."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[torch.argsort(scores, descending=True, stable=True)[: math.floor(share * len(scores))]] = True
    return mask


def check_alpha(alpha: float | str) -> None:
    """Raise UserError if a threshold of dampening is neither a number nor `auto`."""
    if not is_number(alpha) and alpha != AUTO:
        raise UserError(
            f"method.alpha is a number, or auto (set by forget's share of the training set), not {alpha!r}."
        )


def adapted(context: Context, forget: Tensor, whole: Tensor, batch_size: int) -> float:
    """Compute `threshold` of forget's importance over the whole training set's, at the request's share of that set."""
    share = context.count("forget", batch_size) / context.count("train", batch_size)
    return threshold(unfrozen(context, forget), unfrozen(context, whole), share)


def unfrozen(context: Context, importance: Tensor) -> Tensor:
    """Select the entries of an importance (parameters,) that belong to unfrozen weights of the original."""
    counts = torch.cat(
        [torch.full((parameter.numel(),), parameter.requires_grad) for parameter in context.original.parameters()]
    )
    return importance[counts.to(importance.device)]


def threshold(forget: Tensor, retain: Tensor, share: float) -> float:
    """Compute the percentile number 100 - ln(1 + 100 * share) of forget / retain, (parameters,); share in [0, 1]."""
    ratio = np.nan_to_num((forget.double() / retain.double()).cpu().numpy(), nan=0.0, posinf=np.inf)
    finite = ratio[np.isfinite(ratio)]
    ratio = np.minimum(ratio, finite.max(initial=0.0))
    return float(np.percentile(ratio, 100 - math.log1p(100 * share)))


@torch.no_grad()
def dampen(student: nn.Module, forget: Tensor, whole: Tensor, alpha: float, strength: float, floor: float = 0.0) -> int:
    """Multiply each weight with forget > alpha * whole by min(strength * whole / forget, 1), but at least by `floor`.

    forget, whole: importances (parameters,). Frozen weights and buffers stay unchanged.
    Returns the number of selected weights, and warns if there are none.
    """
    parameters, count = list(student.parameters()), 0
    for parameter, mine, all_of in zip(parameters, pieces(forget, parameters), pieces(whole, parameters), strict=True):
        if parameter.requires_grad:
            selected = mine > alpha * all_of
            factor = (strength * all_of / torch.where(selected, mine, 1.0)).clamp(min=floor, max=1.0)
            parameter.mul_(torch.where(selected, factor, 1.0))
            count += int(selected.sum())
    if not count:
        logger.warning(
            "No weight is more than %g times as important to forget as overall: nothing was dampened.", alpha
        )
    return count
