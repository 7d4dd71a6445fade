"""Say why models cannot train together, by trying it: two small steps, stacked and one by one, must agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.distributed.dropout import drawn_for
from speechforget.models.classifier import Classifier
from speechforget.models.transcriber import Transcriber
from speechforget.optimizers import KINDS, make_optimizer
from speechforget.training.stacked import Losses, Stack, computed_in

# Each number of a weight moves by its own gradient and state alone, so models beside each other do not matter.
ELEMENTWISE = {"sgd", "adam", "adamw"}
PRECISIONS = ("32-true", "tf32-true", "64-true", "bf16-mixed")
# Largest difference in float64, as a share of the largest number of a tensor. Batch-norm over few vectors multiplies
# rounding, up to 3e-8 for x_vector; a step moves weights by 1e-3, so a draw of another model shows.
AGREE = 1e-6
UTTERANCES, STEPS = 3, 2


def why_not(model: nn.Module, recipe: Mapping[str, Any], trainer: Mapping[str, Any], bucketed: bool) -> str | None:
    """Return why these models must train one by one, known without a trial; None if nothing is known."""
    optimizer, precision = str(recipe["optimizer"]["name"]), trainer["precision"]
    frontend = model.frontend if isinstance(model, Classifier) else None
    reasons = {
        "several processes train each model": collectives.world() > 1,
        "trainer.compile=true compiles one model": trainer["compile"],
        f"trainer.precision={precision} scales the loss of each model by itself": precision not in PRECISIONS,
        "dataset.lengths=bucketed gives their batches different lengths": bucketed,
        f"the optimizer '{optimizer}' is not elementwise": optimizer in KINDS and optimizer not in ELEMENTWISE,
        "transcripts differ in length": isinstance(model, Transcriber),
        "the model is no Classifier, so its frontend is not known": frontend is None,
        "the frontend has weights": frontend is not None and any(True for _ in frontend.parameters()),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def trial(build: Callable[[int], nn.Module], optimizer: Mapping[str, Any], losses: Losses, samples: int) -> str | None:
    """Train two models for two steps in float64 on the CPU, stacked and one by one; return why that fails, or None.

    build: makes the model of a seed. losses: see `Stack`. samples: of each utterance.
    """
    cpu, default = torch.device("cpu"), torch.get_default_dtype()
    with torch.random.fork_rng():
        models = [build(seed).double().train() for seed in (0, 1)]
        batches = [[_batch(samples, 2 * step + number) for number in (0, 1)] for step in range(STEPS)]
    salts = [(number, "trial") for number in (0, 1)]
    try:
        stack = Stack(models, optimizer, losses, cpu, "64-true")
        for step in batches:
            stack.step(step, stack.seeds(salts), 1e-3)
        for number, model in enumerate(models):
            _train(model, optimizer, losses, [step[number] for step in batches], salts[number])
        return _difference(stack, models)
    except Exception as error:  # whatever a model of the user's does
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
    finally:
        torch.set_default_dtype(default)


def _batch(samples: int, seed: int) -> Batch:
    torch.manual_seed(seed)
    lengths = torch.tensor([samples, samples // 2 + 1, samples])
    labels = torch.arange(UTTERANCES) % 2
    waveform = 0.1 * torch.randn(UTTERANCES, samples, dtype=torch.float64)
    waveform[torch.arange(samples) >= lengths[:, None]] = 0.0
    return Batch((waveform, lengths), labels, torch.arange(UTTERANCES) + 7 * seed, torch.zeros(UTTERANCES) > 0)


def _train(
    model: nn.Module, options: Mapping[str, Any], losses: Losses, batches: Sequence[Batch], salt: Sequence[int | str]
) -> None:
    optimizer = make_optimizer(model.parameters(), options, 1e-3)
    for batch in batches:
        with drawn_for(batch, *salt), computed_in("64-true", torch.device("cpu")):
            loss = losses(model(*batch.inputs).logits, batch.labels)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _difference(stack: Stack, models: Sequence[nn.Module]) -> str | None:
    """Return what differs; None if all agree."""
    for number, model in enumerate(models):
        other = stack.model(number).state_dict()
        for name, tensor in model.state_dict().items():
            apart = (tensor.double() - other[name].double()).abs().max() if tensor.numel() else torch.zeros(())
            if not apart <= AGREE * max(1.0, float(tensor.double().abs().max())):
                return f"{name} differs by {float(apart):.1g} from a model that trained alone"
    return None
