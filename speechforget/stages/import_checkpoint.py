"""Stage: turn a user's checkpoint into an original with its outputs in the order of the corpus."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.models.checkpoint import OURS, Checkpoint
from speechforget.models.folder import build_classifier, save_classifier
from speechforget.store import read_done, write_json
from speechforget.store.manifest import damage

VERSION = 1  # raise it whenever the same inputs give other weights


@torch.no_grad()
def import_checkpoint(
    folder: Path, checkpoint: Checkpoint, classes: Sequence[str], dataset: Mapping[str, Any], model: Mapping[str, Any]
) -> None:
    """Write the classifier of the checkpoint and the cost of importing it to `folder`; its training cost is unknown.

    classes: names of the outputs in the wanted order, all of them names of the checkpoint's. dataset: sample_rate (Hz)
    and seconds. model: the config of the run.
    Raises UserError for weights that cannot be used.
    """
    started = time.perf_counter()
    if checkpoint.kind == "speechforget":
        parts = dict(checkpoint.model["model"])
    else:
        parts = {**model, "pretrained": str(checkpoint.folder), "revision": None, "head": "keep"}
    classifier = _classifier(checkpoint, parts, dataset["sample_rate"]).eval()
    if broken := [name for name, tensor in classifier.state_dict().items() if tensor.isnan().any()]:
        raise UserError(
            f"{checkpoint.folder} holds weights that are not numbers ({broken[0]}): "
            "save it again from before its training diverged."
        )
    reorder(classifier, [checkpoint.labels.index(name) for name in classes], dataset["sample_rate"])
    save_classifier(
        folder,
        classifier,
        {"model": parts, "labels": list(classes), "sample_rate": dataset["sample_rate"], "seconds": dataset["seconds"]},
    )
    write_json(folder / "cost.json", {"of": "importing", "seconds": round(time.perf_counter() - started, 3)})


def _classifier(checkpoint: Checkpoint, parts: Mapping[str, Any], sample_rate: int) -> nn.Module:
    folder = checkpoint.folder
    for name, problem in _damage(folder):
        raise UserError(f"{folder} is damaged, {name} {problem}: copy the checkpoint again.")
    try:
        classifier = build_classifier(parts, len(checkpoint.labels), sample_rate)
        if checkpoint.kind == "speechforget":
            classifier.load_state_dict(load_file(folder / OURS[1]))
    except UserError:
        raise
    except Exception as error:  # torch, safetensors and transformers each raise their own
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(
            f"{folder} cannot be read as weights of this model ({reason}): copy the checkpoint again."
        ) from error
    return classifier


def _damage(folder: Path) -> list[tuple[str, str]]:
    """Return (file, problem) for files that differ from the record of their run, if the folder has one."""
    record = read_done(folder)
    held = {name: record["files"][name] for name in OURS if name in record["files"]} if record is not None else {}
    return list(damage(folder, {"files": held}, hashes=True))


def reorder(classifier: nn.Module, order: Sequence[int], sample_rate: int) -> None:
    """Make output order[i] of the classifier its output i, and drop outputs that `order` does not name.

    Raises RuntimeError for a head without a row per output.
    """
    generator = torch.Generator().manual_seed(0)
    noise, lengths = 0.1 * torch.randn(2, sample_rate, generator=generator), torch.tensor([sample_rate, sample_rate])
    outputs: Tensor = classifier(noise, lengths).logits
    before, head = outputs[..., list(order)], classifier.head
    for name in ("weight", "bias"):
        rows = getattr(head, name, None)
        if isinstance(rows, Tensor) and len(rows) == outputs.shape[-1]:
            setattr(head, name, nn.Parameter(rows[list(order)].clone()))
    after: Tensor = classifier(noise, lengths).logits
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-4):
        raise RuntimeError(f"the outputs of {type(head).__name__} cannot be reordered by its rows")
