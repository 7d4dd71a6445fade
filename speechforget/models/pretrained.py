"""Find and identify pretrained weights, without torch or transformers.

`pretrained` of a model is a folder that transformers' `save_pretrained` wrote, the name of a repository on the Hugging
Face hub, or null. For a torchaudio bundle it is true, false or a file of weights.
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
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the first kind that exists is read, as in transformers
GIVE = "give a folder that transformers' save_pretrained wrote"
COMMIT = re.compile("[0-9a-f]{40}")
UNREACHABLE = (
    "model.pretrained={name} cannot be fetched{reason}: check the network or the name, "
    "download it elsewhere and give its folder, or set model.pretrained=null for random weights."
)
INSTALL = 'The model needs the package {package}: install it with pip install -e ".[pretrained]".'


def fingerprint(model: Mapping[str, Any]) -> dict[str, str] | None:
    """Identify the pretrained weights of a model's config, independent of their path; None for random weights.

    Gives the sha256 of a folder's files, the commit of a repository, or the bundle's name of torchaudio's own weights.
    Raises UserError for weights that do not exist or cannot be reached.
    """
    pretrained = model.get("pretrained")
    if not pretrained:
        return None
    if pretrained is True:
        return {"bundle": str(model["bundle"])}
    path = _resolve(str(pretrained), "bundle" not in model)
    if path is not None and path.is_file():
        check_no_pointer([path])
    if path is None:
        return {"commit": _commit(str(pretrained), model.get("revision"))}
    files = [path] if path.is_file() else _files(path)
    return {file.name if path.is_dir() else "weights": _hash(file) for file in files}


def placeless(model: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the path of the weights from a model's config: a key holds their fingerprint instead."""
    named = {"pretrained": None, "revision": None} if model.get("pretrained") else {}
    return {name: named.get(name, value) if name in named else value for name, value in model.items()}


def fetched(model: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a repository's name in a model's config by a local folder; download it unless the hub's cache holds it.

    Raises UserError for weights that do not exist or cannot be reached.
    """
    options = dict(model)
    revision = options.pop("revision", None)
    pretrained = options.get("pretrained")
    if isinstance(pretrained, str) and pretrained:
        path = _resolve(pretrained, "bundle" not in model)
        options["pretrained"] = str(_snapshot(pretrained, _commit(pretrained, revision)) if path is None else path)
    return options


def labels_of(folder: str | Path) -> list[str] | None:
    """Read the names of a classification checkpoint's outputs, in their order; None: its config.json has no names."""
    names = _config(Path(folder)).get("id2label")
    return None if not names else [str(names[number]) for number in sorted(names, key=int)]


def _config(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = None if (folder / "config.json").exists() else instead(folder)
        raise UserError(f"{folder} does not hold a readable config.json ({error}): {hint or GIVE}.") from None


def _resolve(pretrained: str, hub: bool) -> Path | None:
    """Resolve `pretrained` to a folder or file; None: a repository of the hub. Raises UserError."""
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
    """List the files that decide the weights of a folder. Raises UserError where it is not a checkpoint."""
    _config(folder)
    weights = _weights(folder)
    if not weights:
        raise UserError(f"{folder} does not hold weights ({' or '.join(WEIGHTS)}): {instead(folder) or GIVE}.")
    check_no_pointer(weights)
    return [*(folder / name for name in CONFIGS if (folder / name).exists()), *weights]


def _hash(file: Path) -> str:
    state = file.stat()
    return _hash_of_state(file.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hash_of_state(file: Path, _size: int, _time: int) -> str:
    """Hash a file once per process: a sweep asks for the same gigabytes many times."""
    return sha256(file)


@functools.lru_cache(maxsize=256)
def _commit(name: str, revision: str | None) -> str:
    """Find the commit of a repository's revision: in the hub's cache on this machine, else on the hub.

    The cache comes first: a finished run is found without a network, and has the same key after the hub has changed.
    """
    if COMMIT.fullmatch(revision or ""):
        return str(revision)
    hub = _hub()
    try:
        cached = hub.try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        return str(hub.HfApi().model_info(name, revision=revision, timeout=10).sha)
    except Exception as error:  # dozens of types: of the hub, of its HTTP library, of the system
        raise _unreachable(name, error) from None


def _snapshot(name: str, commit: str) -> Path:
    """Download a commit with its weights unless the cache holds it; give its folder."""
    hub = _hub()
    with contextlib.suppress(FileNotFoundError, ValueError):  # not in the cache yet
        folder = Path(
            hub.snapshot_download(name, revision=commit, allow_patterns=["config.json"], local_files_only=True)
        )
        if _weights(folder):
            return folder
    try:
        for pattern in WEIGHTS:  # a repository may hold the same weights in several formats
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
        f"model.pretrained={name} does not hold readable weights ({' or '.join(WEIGHTS)}): choose another one."
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
