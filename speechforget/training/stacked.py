"""Train several models of one architecture and recipe at once: one step updates all of them.

Weights, buffers and the optimiser's state have a first axis over models. torch.func.vmap runs each layer once for all
models. Each model has batches, draws and statistics of batch-norm of its own, so no number flows between models: each
model gets the weights of a training of its own, up to rounding.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from speechforget.batch import Batch
from speechforget.distributed.dropout import UtteranceDropout, drawn_by, dropout_seed
from speechforget.methods.common.conv_as_matmul import as_products
from speechforget.optimizers import make_optimizer
from speechforget.training.replay import Replay

# logits (batch, classes), labels (batch,) -> loss and accuracy of each utterance, both (batch,)
Losses = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
State = dict[str, Any]


class Stack:
    """Hold models that train together. Every tensor of weights and buffers has shape (models, ...).

    optimizer: options of `optimizers.make_optimizer`. losses: see `Losses`. precision: of the trainer.
    products: compute convolutions as batched matrix products, not as grouped convolutions.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizer: Mapping[str, Any],
        losses: Losses,
        device: torch.device,
        precision: str = "32-true",
        *,
        products: bool = False,
    ) -> None:
        self.device, self.precision, self.losses, self.options = device, precision, losses, optimizer
        self.template = copy.deepcopy(models[0]).to(device).train()
        self.double = precision == "64-true"
        if self.double:
            self.template.double()
        if products:
            as_products(self.template)
        if precision == "bf16-mixed":
            _norms_in_float32(self.template)
        self.trained = [name for name, weight in self.template.named_parameters() if weight.requires_grad]
        self.dropouts = sum(isinstance(module, UtteranceDropout) for module in self.template.modules())
        self.load([{"tensors": self._own(model), "optimizer": {}} for model in models])

    def __len__(self) -> int:
        """Return the number of models."""
        return len(next(iter(self.tensors.values())))

    def _own(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the parameters and buffers of a model; the frontend's are equal in all models."""
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {name: tensor.detach() for name, tensor in named.items() if not name.startswith("frontend.")}

    def load(self, states: Sequence[State]) -> None:
        """Replace the models by those of `states`, in this order; see `states`."""
        like = self._own(self.template)
        self.tensors = {
            name: torch.stack([state["tensors"][name].to(self.device, tensor.dtype) for state in states])
            for name, tensor in like.items()
        }
        weights = [nn.Parameter(self.tensors[name]) for name in self.trained]
        self.tensors |= dict(zip(self.trained, weights, strict=True))
        self.optimizer = make_optimizer(weights, self.options, 0.0)
        known = {
            number: {
                key: torch.stack([state["optimizer"][name][key] for state in states]) if per_model else value
                for key, (value, per_model) in _marked(states[0], name).items()
            }
            for number, name in enumerate(self.trained)
            if name in states[0]["optimizer"]
        }
        self.optimizer.load_state_dict({"state": known, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.replay = Replay(self._gradients, self.device)

    def states(self) -> list[State]:
        """Return weights, buffers and optimiser state of each model, as `load` takes them."""
        known = {name: self.optimizer.state.get(self.tensors[name], {}) for name in self.trained}
        return [
            {
                "tensors": {name: tensor[number].detach().clone() for name, tensor in self.tensors.items()},
                "optimizer": {
                    name: {key: _part(value, self.tensors[name], number) for key, value in state.items()}
                    for name, state in known.items()
                    if state
                },
            }
            for number in range(len(self))
        ]

    def model(self, number: int) -> nn.Module:
        """Return a copy of one model."""
        model = copy.deepcopy(self.template)
        own = self._own(model)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                own[name].copy_(tensor[number])
        return model

    def seeds(self, salts: Sequence[Sequence[int | str]]) -> Tensor:
        """Return the seeds of the dropouts of each model (models, dropouts), given what its draws depend on."""
        drawn = [[dropout_seed(salt, number) for number in range(self.dropouts)] for salt in salts]
        return torch.tensor(drawn, dtype=torch.int64).view(len(salts), self.dropouts).to(self.device)

    def step(self, batches: Sequence[Batch], seeds: Tensor, learning_rate: float) -> Tensor:
        """Update each model on its batch; return mean loss and accuracy of each model, (models, 2) float64.

        Models with batches of one size are computed together. seeds: of dropout, see `seeds`.
        """
        groups: dict[tuple[torch.Size, ...], list[int]] = defaultdict(list)
        for number, batch in enumerate(batches):
            groups[tuple(tensor.shape for tensor in (batch.labels, *batch.inputs))].append(number)
        found = torch.empty(len(self), 2, dtype=torch.float64, device=self.device)
        gradients: Sequence[Tensor] = ()
        for numbers in groups.values():
            inputs = [*self._gathered([batches[number] for number in numbers])]
            whole = len(numbers) == len(self)
            chosen = [] if whole else [torch.tensor(numbers, device=self.device)]
            part, *own = self.replay([seeds if whole else seeds[chosen[0]], *inputs, *chosen])
            found[chosen[0] if chosen else slice(None)] = part
            gradients = [a + b for a, b in zip(gradients, own, strict=True)] if gradients else own
        for name, gradient in zip(self.trained, gradients, strict=True):
            self.tensors[name].grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return found

    def _gathered(self, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """Yield labels and rows, then the inputs of the classifier, each with a first axis over models."""
        numbers = torch.stack([torch.stack([batch.labels, batch.rows]) for batch in batches], dim=1)
        yield from self._moved(numbers)
        for tensors in zip(*(batch.inputs for batch in batches), strict=True):
            yield self._moved(torch.stack(tensors))

    def _moved(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device without waiting for it; floats become float64 where the models are."""
        if tensor.device != self.device:
            tensor = (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)
        return tensor.double() if self.double and tensor.is_floating_point() else tensor

    def _gradients(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return means (models, 2) and the gradient of each trained weight.

        inputs: seeds, labels, rows, waveforms, lengths, spans if there are any; then the numbers of the models if they
        are not all.
        """
        seeds, labels, rows, waveform, lengths, *rest = inputs
        spans = [tensor for tensor in rest if tensor.is_floating_point()]
        chosen = next((tensor for tensor in rest if not tensor.is_floating_point()), None)
        tensors = self.tensors if chosen is None else {name: tensor[chosen] for name, tensor in self.tensors.items()}
        with computed_in(self.precision, self.device):
            features = self.template.frontend(  # type: ignore[operator]
                waveform.flatten(0, 1), lengths.flatten(), *(tensor.flatten(0, 1) for tensor in spans)
            )
            features = features.unflatten(0, lengths.shape)
            means = vmap(self._means)(tensors, features, lengths, labels, rows, seeds)
        weights = [self.tensors[name] for name in self.trained]
        gradients = torch.autograd.grad(means[:, 0].sum(), weights)
        if chosen is not None:
            with torch.no_grad():
                for name in tensors.keys() - set(self.trained):
                    self.tensors[name][chosen] = tensors[name]
        # A fused optimiser reads gradients in the order of memory, so they must have the layout of the weights.
        return [means.detach().double(), *(gradient.contiguous() for gradient in gradients)]

    def _means(
        self, tensors: dict[str, Tensor], features: Tensor, lengths: Tensor, labels: Tensor, rows: Tensor, seeds: Tensor
    ) -> Tensor:
        """Return mean loss and accuracy of one model, (2,)."""
        with drawn_by(features, rows, seeds):
            logits = functional_call(self.template, tensors, (features, lengths), {"features": features}).logits
        return torch.stack([values.mean() for values in self.losses(logits, labels)])

    @torch.no_grad()
    def logits(self, inputs: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
        """Return the logits of some models for the same utterances: (models, batch, classes), as for evaluation."""
        waveform, lengths = (self._moved(tensor) for tensor in inputs)
        chosen = {name: tensor[list(numbers)] for name, tensor in self.tensors.items()}
        features = self.template.eval().frontend(waveform, lengths)  # type: ignore[operator]
        try:
            return vmap(
                lambda tensors: (
                    functional_call(self.template, tensors, (features, lengths), {"features": features}).logits
                )
            )(chosen)
        finally:
            self.template.train()

    def finite(self) -> list[bool]:
        """Return whether all numbers of each model are finite."""
        floats = [tensor.detach() for tensor in self.tensors.values() if tensor.is_floating_point()]
        return torch.stack([tensor.isfinite().flatten(1).all(1) for tensor in floats]).all(0).tolist()


def _norms_in_float32(model: nn.Module) -> None:
    """Let batch-norms compute in float32 and return the type of their input, as torch does for one model."""

    def forward(norm: nn.Module, kind: type[_BatchNorm], input: Tensor) -> Tensor:
        return kind.forward(norm, input.float()).to(input.dtype)  # type: ignore[arg-type]

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(forward, module, type(module))  # type: ignore[method-assign]


def _marked(state: State, name: str) -> dict[str, tuple[Any, bool]]:
    """Return each value of an optimiser's state, and whether it has the shape of its weight."""
    shape = state["tensors"][name].shape
    return {
        key: (value, isinstance(value, Tensor) and value.shape == shape and key != "step")
        for key, value in state["optimizer"][name].items()
    }


def _part(value: Any, weight: Tensor, number: int) -> Any:
    """Return what belongs to one model of a value of the optimiser's state; step counts are the same for all."""
    if not isinstance(value, Tensor):
        return value
    return (value[number] if value.shape == weight.shape else value).detach().clone()


@contextmanager
def computed_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute as Lightning does in a precision: float64 by default, or bfloat16 where autocast allows it."""
    if precision == "bf16-mixed":
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if precision == "64-true" else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
