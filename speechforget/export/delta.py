"""Write what unlearning changed as a small file, which can be added to the original model and taken off again.

Adding leaves the weights of the base as they are: each changed tensor is computed from the stored one whenever it is
used (`torch.nn.utils.parametrize`). So taking off gives back the bits of the base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechforget.errors import UserError
from speechforget.export.graph import Agreement, Graph, agreement
from speechforget.export.source import Source, Unsupported, key_of_folder
from speechforget.models.delivered import model_of
from speechforget.models.folder import load_classifier
from speechforget.store import verified, write_json
from speechforget.store.manifest import sha256
from speechforget.store.names import LOW_RANK

FILE, RECORD = "delta.safetensors", "delta.json"
UP, DOWN, DIFFERENCE = ".up", ".down", ".difference"
KIND, VERSION = "speechforget-delta", 1
LARGEST = 0.5  # of the bytes of the base: a larger delta is no saving
ROUNDING = 1e-5  # of the largest weight of a tensor: factors that miss it by more are not the whole change

Classifier = TypeVar("Classifier", bound=nn.Module)


class Delta(NamedTuple):
    """Hold the change of some tensors of a base model.

    base: the `fingerprint` of its weights. low_rank: name -> factors `up` (out, rank) and `down` (rank, in), whose
    product is added. difference: name -> what is added to tensors without factors.
    """

    base: str
    low_rank: Mapping[str, tuple[Tensor, Tensor]]
    difference: Mapping[str, Tensor]


class LowRank(nn.Module):
    """Add the product of two factors to a weight."""

    up: Tensor
    down: Tensor

    def __init__(self, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.register_buffer("up", up)
        self.register_buffer("down", down)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight (out, in)."""
        return weight + self.up @ self.down


class Difference(nn.Module):
    """Add a tensor of the same shape to a weight."""

    difference: Tensor

    def __init__(self, difference: Tensor) -> None:
        super().__init__()
        self.register_buffer("difference", difference)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight."""
        return weight + self.difference


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and bits of all weights: SHA-256, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def add(base: Classifier, delta: Delta | Path | str) -> Classifier:
    """Add a delta to a classifier in place, and return it: it gives the logits of the unlearned model.

    delta: what `read_delta` returns, or its folder. Raises UserError for a classifier with other weights.
    """
    found = delta if isinstance(delta, Delta) else read_delta(Path(delta))
    if fingerprint(base.state_dict()) != found.base:
        raise UserError(
            "The delta belongs to a model with other weights, or is added already: load the original model of its "
            f"result (weights {found.base[:12]})."
        )
    for module, name, change in _changes(base, found):
        parametrize.register_parametrization(module, name, change)
    return base


def take_off(unlearned: Classifier, delta: Delta | Path | str) -> Classifier:
    """Take a delta off in place, and return the classifier with the bits of its base.

    Raises UserError if the delta is not on it, or if its weights changed while the delta was on.
    """
    found = delta if isinstance(delta, Delta) else read_delta(Path(delta))
    places = [_place(unlearned, name) for name in (*found.low_rank, *found.difference)]
    if not all(parametrize.is_parametrized(module, name) for module, name in places):
        raise UserError("The delta is not on this model: add it first.")
    for module, name in places:
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    if fingerprint(unlearned.state_dict()) != found.base:
        raise UserError("The weights below the delta are not those of its base: load the original model again.")
    return unlearned


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a tensor, and its name there. Raises UserError if there is none."""
    path, _, own = name.rpartition(".")
    try:
        return model.get_submodule(path), own
    except AttributeError:
        raise UserError(f"The delta changes '{name}', which this model does not have: load its own base.") from None


def _changes(base: nn.Module, delta: Delta) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    weights = base.state_dict()
    for name, factors in delta.low_rank.items():
        yield *_place(base, name), LowRank(*(factor.to(weights[name]) for factor in factors))
    for name, difference in delta.difference.items():
        yield *_place(base, name), Difference(difference.to(weights[name]))


def difference(base: Mapping[str, Tensor], unlearned: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> Delta:
    """Find what changed between two models of one architecture.

    factors: `<weight>.up` and `<weight>.down` of low-rank updates that were merged. A tensor that they do not explain
    is kept as a difference. Raises Unsupported for two architectures, nothing changed, or a change too large.
    """
    if {name: tensor.shape for name, tensor in base.items()} != {
        name: tensor.shape for name, tensor in unlearned.items()
    }:
        raise Unsupported("the unlearned model has another architecture than its original")
    low_rank, dense = {}, {}
    for name in [name for name in base if not torch.equal(base[name], unlearned[name])]:
        before, after = base[name], unlearned[name]
        up, down = factors.get(name + UP), factors.get(name + DOWN)
        if up is not None and down is not None and _explained(after - before, up @ down, before):
            low_rank[name] = (up, down)
        else:
            dense[name] = after - before
    delta = Delta(fingerprint(base), low_rank, dense)
    _check_small(delta, base)
    if counters := [name for name in dense if not base[name].is_floating_point()]:
        raise Unsupported(f"'{counters[0]}' changed and is no weight")
    return delta


def _explained(change: Tensor, product: Tensor, weight: Tensor) -> bool:
    return bool((change - product).abs().max() <= ROUNDING * weight.abs().max())


def _check_small(delta: Delta, base: Mapping[str, Tensor]) -> None:
    if not delta.low_rank and not delta.difference:
        raise Unsupported("unlearning changed no weight")
    share = sum(map(_bytes, tensors(delta).values())) / sum(map(_bytes, base.values()))
    if share > LARGEST:
        raise Unsupported(
            f"its difference to the original has {share:.0%} of the bytes of the whole model: "
            "unlearn with method.trainable=lora or head, or export the format folder"
        )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def tensors(delta: Delta) -> dict[str, Tensor]:
    """Return the tensors of a delta by their names in its file."""
    found = {name + DIFFERENCE: tensor for name, tensor in delta.difference.items()}
    for name, (up, down) in delta.low_rank.items():
        found |= {name + UP: up, name + DOWN: down}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def write_delta(folder: Path, source: Source, clips: list[Tensor]) -> tuple[dict[str, Any], Agreement]:
    """Write `delta.safetensors` and `delta.json`, and check that adding and taking off work.

    Returns what the export tells of the delta, and how far its logits are from those of the unlearned model. Raises
    Unsupported for another model than the unlearned one, see `difference`, or if a check fails.
    """
    if source.model.name != "unlearned":
        raise Unsupported("a delta leads from the original to the unlearned model: leave out --model")
    original = model_of(source.result, "original").folder
    for name in ("weights.safetensors", "model.json"):
        verified(original, name)
    base = load_classifier(original)[0]
    kept = source.model.folder / LOW_RANK
    factors = load_file(verified(kept.parent, LOW_RANK)) if kept.exists() else {}
    delta = difference(base.state_dict(), source.classifier.state_dict(), factors)
    save_file(tensors(delta), folder / FILE)
    about = {
        "kind": KIND,
        "version": VERSION,
        "base": {"weights": delta.base, "key": key_of_folder(original)},
        "result": source.key,
        "low_rank": sorted(delta.low_rank),
        "difference": sorted(delta.difference),
        "bytes": (folder / FILE).stat().st_size,
        "sha256": sha256(folder / FILE),
    }
    write_json(folder / RECORD, about)
    found = agreement(Graph(source.classifier, source.width), Graph(add(base, folder), source.width), clips)
    take_off(base, folder)
    told = {"low_rank": len(delta.low_rank), "difference": len(delta.difference), "bytes": about["bytes"]}
    return {"file": FILE, "base": about["base"], **told}, found


def read_delta(folder: Path) -> Delta:
    """Read the delta of an exported folder. Raises UserError if it holds none, or a damaged one."""
    try:
        about = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        kind, base = (about["kind"], about["version"]), str(about["base"]["weights"])
        whole = sha256(folder / FILE) == about["sha256"]
        found = load_file(folder / FILE) if whole else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no readable delta ({error}): export it again with --format delta.") from error
    if kind != (KIND, VERSION):
        raise UserError(f"{folder / RECORD} is of another version of speechforget: export the delta again.")
    if not whole:
        raise UserError(f"{folder / FILE} has other bytes than recorded: export the delta again.")
    low_rank = {name: (found[name + UP], found[name + DOWN]) for name in about["low_rank"]}
    return Delta(base, low_rank, {name: found[name + DIFFERENCE] for name in about["difference"]})
