"""Pretrained weights: where they lie, what identifies them, and what a checkpoint says of itself. Nothing here needs torch or transformers.

`pretrained` of a model is a folder that transformers' `save_pretrained` wrote, the name of a repository of the Hugging Face hub, or null. Of a
torchaudio bundle it is true, false or a file of weights.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.models.lookalikes import check_no_pointer, instead
from speechforget.store.manifest import sha256

CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the first kind that is there is read; so does transformers
GIVE = "give a folder that transformers' save_pretrained wrote"
COMMIT = re.compile("[0-9a-f]{40}")
UNREACHABLE = (
    "model.pretrained={name} cannot be fetched{reason}: check the network or the name, download it elsewhere and give its folder, or set "
    "model.pretrained=null for random weights."
)
INSTALL = 'The model needs the package {package}: install it with pip install -e ".[pretrained]".'


def fingerprint(model: Mapping[str, Any]) -> dict[str, str] | None:
    """What identifies the pretrained weights of a model's config, wherever they lie; None for random weights.

    Of a folder the sha256 of its files, of a repository the commit, of torchaudio's own weights the bundle's name.
    Raises UserError for weights that are not there or cannot be reached.
    """
    pretrained = model.get("pretrained")
    if not pretrained:
        return None
    if pretrained is True:
        return {"bundle": str(model["bundle"])}
    place = _place(str(pretrained), "bundle" not in model)
    if place is not None and place.is_file():
        check_no_pointer([place])
    if place is None:
        return {"commit": _commit(str(pretrained), model.get("revision"))}
    files = [place] if place.is_file() else _files(place)
    return {file.name if place.is_dir() else "weights": _hash(file) for file in files}


def placeless(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config without the place of its weights: for a key, beside their fingerprint."""
    named = {"pretrained": None, "revision": None} if model.get("pretrained") else {}
    return {name: named.get(name, value) if name in named else value for name, value in model.items()}


def fetched(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config with a folder in place of a repository's name: fetched where it is not in the hub's cache on this machine.

    Raises UserError for weights that are not there or cannot be reached.
    """
    options = dict(model)
    revision = options.pop("revision", None)
    pretrained = options.get("pretrained")
    if isinstance(pretrained, str) and pretrained:
        place = _place(pretrained, "bundle" not in model)
        options["pretrained"] = str(_snapshot(pretrained, _commit(pretrained, revision)) if place is None else place)
    return options


def labels_of(folder: str | Path) -> list[str] | None:
    """The names of the outputs of a classification checkpoint, in their order; None where its config.json has none."""
    names = _config(Path(folder)).get("id2label")
    return None if not names else [str(names[number]) for number in sorted(names, key=int)]


def _config(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = None if (folder / "config.json").exists() else instead(folder)
        raise UserError(f"{folder} holds no readable config.json ({error}): {hint or GIVE}.") from None


def _place(pretrained: str, hub: bool) -> Path | None:
    """The folder or file that is meant; None for a repository of the hub, where it can be one."""
    path = Path(pretrained).expanduser()
    if path.exists():
        return path
    if not hub:
        raise UserError(f"There is no model.pretrained={pretrained}: give the file of a state dict, true, or false.")
    if pretrained.startswith((".", "/", "~")) or pretrained.count("/") > 1:
        raise UserError(f"There is no model.pretrained={pretrained}: {GIVE}, or a name of the hub.")
    return None


def _weights(folder: Path) -> list[Path]:
    return next((found for pattern in WEIGHTS if (found := sorted(folder.glob(pattern)))), [])


def _files(folder: Path) -> list[Path]:
    """What decides the weights of a folder. Raises UserError where it is no checkpoint."""
    _config(folder)
    weights = _weights(folder)
    if not weights:
        raise UserError(f"{folder} holds no weights ({' or '.join(WEIGHTS)}): {instead(folder) or GIVE}.")
    check_no_pointer(weights)
    return [*(folder / name for name in CONFIGS if (folder / name).exists()), *weights]


def _hash(file: Path) -> str:
    state = file.stat()
    return _hash_of_state(file.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hash_of_state(file: Path, _size: int, _time: int) -> str:
    """Gigabytes are read once a process: a sweep asks again and again."""
    return sha256(file)


@functools.lru_cache(maxsize=256)
def _commit(name: str, revision: str | None) -> str:
    """The commit of a repository's revision: in the cache on this machine, else at the hub.

    The cache goes first, so that a run that can be found again is found without a network, and under the same key after the hub moved on.
    """
    if COMMIT.fullmatch(revision or ""):
        return str(revision)
    hub = _hub()
    try:
        cached = hub.try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        return str(hub.HfApi().model_info(name, revision=revision, timeout=10).sha)
    except Exception as error:  # of the hub's own, of its HTTP library and of the system there are dozens
        raise _unreachable(name, error) from None


def _snapshot(name: str, commit: str) -> Path:
    """The folder of a commit in the hub's cache, with its weights."""
    hub = _hub()
    with contextlib.suppress(FileNotFoundError, ValueError):  # nothing of it is here yet
        folder = Path(
            hub.snapshot_download(name, revision=commit, allow_patterns=["config.json"], local_files_only=True)
        )
        if _weights(folder):
            return folder
    try:
        for pattern in WEIGHTS:  # many repositories hold the same weights in several formats: one is enough
            folder = Path(
                hub.snapshot_download(
                    name, revision=commit, allow_patterns=[*CONFIGS, pattern, f"{pattern}.index.json"]
                )
            )
            if _weights(folder):
                return folder
    except Exception as error:
        raise _unreachable(name, error) from None
    raise UserError(
        f"model.pretrained={name} holds no weights that can be read ({' or '.join(WEIGHTS)}): take another one."
    )


def _unreachable(name: str, error: Exception) -> UserError:
    reason = type(error).__name__
    return UserError(UNREACHABLE.format(name=name, reason=f" ({reason})"))


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(INSTALL.format(package="huggingface_hub")) from None
    return huggingface_hub
