"""Cache quantities that depend only on the original and its training set, so that later requests reuse them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechforget.config.inputs import code_of
from speechforget.distributed import collectives
from speechforget.errors import UserError
from speechforget.store import Artefact, Store, read_done, verified, write_json
from speechforget.training.cost_meter import Cost

FILE = "importance.safetensors"
VERSION = 1  # raise it whenever the same inputs give other numbers


@dataclass(frozen=True)
class ImportanceCache:
    """Find or make importances in a store. original: folder of the model. split: key of the split it was trained on."""

    store: Store
    original: Path
    split: str
    precision: str

    def keep(
        self,
        cost: Cost,
        device: torch.device,
        of: Callable[..., Tensor],
        arguments: Sequence[Any],
        make: Callable[[], Tensor],
    ) -> Tensor:
        """Return the tensor of `Context.keep` on the device, found or made now; `cost` counts it in both cases.

        Every rank calls this. Rank 0 looks whether it exists and tells the others whether to help making it.
        Raises FloatingPointError if it is not finite, and then stores nothing.
        """
        if collectives.rank() == 0:
            with cost.paused():  # waiting for another process that makes it is no cost
                artefact = self._produce(of, arguments, lambda: self._made(cost, make))
            collectives.agreed("found" if not artefact.built else "made")
            spent, reused, folder = collectives.agreed((artefact.cost, not artefact.built, str(artefact.folder)))
        else:
            while collectives.agreed(None) == "make":
                self._made(cost, make, announce=False)
            spent, reused, folder = collectives.agreed(None)
        cost.share(spent, reused)
        try:
            return load_file(verified(Path(folder), FILE))["importance"].to(device)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} has no readable importances ({error}): remove it and run again.") from error

    def _produce(
        self, of: Callable[..., Tensor], arguments: Sequence[Any], make: Callable[[], tuple[Tensor, dict[str, Any]]]
    ) -> Artefact:
        record = read_done(self.original)
        if record is None:
            raise UserError(f"{self.original} is not finished: run the same command again.")
        inputs = {
            "version": VERSION,
            "original": record["key"],
            "split": self.split,
            "of": f"{of.__module__}.{of.__name__}",
            "arguments": list(arguments),
            "code": code_of("importance", of.__module__),
            "precision": self.precision,
        }

        def build(folder: Path, _: str) -> None:
            tensor, spent = make()
            if not tensor.isfinite().all():
                raise FloatingPointError(f"the {of.__name__.replace('_', ' ')} of the original are not finite")
            temporary = folder / f"{FILE}.partial"
            save_file({"importance": tensor.detach().cpu().contiguous()}, temporary)
            temporary.replace(folder / FILE)
            write_json(folder / "cost.json", spent)

        return self.store.produce("importance", f"{of.__name__}-{self.original.name.rsplit('-', 1)[0]}", inputs, build)

    def _made(self, cost: Cost, make: Callable[[], Tensor], announce: bool = True) -> tuple[Tensor, dict[str, Any]]:
        """Make the tensor; return it with its cost over all ranks."""
        if announce:
            collectives.agreed("make")
        before = cost.state_dict()
        with nullcontext() if cost.running else cost:
            tensor = make()
        after = cost.state_dict()
        counts = collectives.total(
            torch.tensor([after[name] - before[name] for name in ("forward", "forward_backward")])
        ).tolist()
        seconds = after["seconds"] - before["seconds"]
        return tensor, {
            "seconds": seconds,
            "forward": counts[0],
            "forward_backward": counts[1],
            "machine": after["machine"],
        }
