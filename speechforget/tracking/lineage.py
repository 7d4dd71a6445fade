"""Models and request lists of a run as W&B artifacts: which it made, and which it used.

An artifact is named by the key of its artefact, and a reference to a file by that key, too. So the same model is the
same version for every run that names it, on any machine. A reference tells W&B neither bytes nor paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechforget.record.request import LISTS, describe_request, read_list
from speechforget.record.salt import own_salt
from speechforget.store.files import read_json, write_json
from speechforget.store.folder import KEY_DIGITS
from speechforget.tracking.tracker import Run

REFERENCES, FILES = "references", "files"  # values of logger.artifacts besides `none`
MODEL = ("model.json", "weights.safetensors")
TRAINED = ("original", "oracle", "unlearned")
REQUEST = "request.json"
Artifact = dict[str, Any]


def artifacts(run: Run, kind: str, open_names: bool) -> list[Artifact]:
    """List the W&B artifacts of a finished run. kind: `REFERENCES` or `FILES`, which uploads models and lists.

    Each has `name`, `type`, `used` (else the run made it), `metadata`, and `references` and `files`: name -> URI, path.
    """
    inputs = read_json(run.folder / "inputs.json").get("inputs") or {}
    if run.stage in TRAINED:
        used = [_model(run, "original", inputs["original"], kind, used=True)] if "original" in inputs else []
        return [*used, _model(run, run.stage, run.key, kind, used=False)]
    if run.stage != "result":
        return []
    models = [_model(run, name.partition("-")[0], key, kind, used=True) for name, key in inputs["models"].items()]
    return [*models, _request(run, str(inputs["request"]), kind, open_names)]


def _model(run: Run, stage: str, key: str, kind: str, used: bool) -> Artifact:
    folder = next(run.folder.parents[1].glob(f"{stage}/*-{key[:KEY_DIGITS]}"), None)
    metadata = {"stage": stage, "key": key}
    paths = {name: folder / name for name in MODEL} if folder is not None else {}
    there = {name: path for name, path in paths.items() if path.exists()} if kind == FILES else {}
    references = {} if there else {name: f"speechforget:{stage}/{key}/{name}" for name in MODEL}
    return _artifact(f"{stage}-{key[:KEY_DIGITS]}", "model", used, metadata, references, there)


def _request(run: Run, ids: str, kind: str, open_names: bool) -> Artifact:
    """Describe what was asked: counts, and if it is uploaded the salted hashes of ids, or the ids themselves."""
    result = read_json(run.folder / "result.json")
    metadata = {"sha256": ids, "kind": result["task"]["kind"], "by": result["task"].get("by")}
    metadata |= {name: result["request"][name] for name in ("forget", "nonmembers", "withdrawn")}
    name = f"request-{ids[:KEY_DIGITS]}"
    if kind != FILES:
        return _artifact(name, "request", True, metadata, {REQUEST: f"speechforget:request/{ids}"}, {})
    told = describe_request(run.folder, result, own_salt(run.folder.parents[1]))
    told |= {"ids": {each: list(_ids(run.folder, each)) for each in LISTS}} if open_names else {}
    path = run.folder / "wandb" / REQUEST
    path.parent.mkdir(exist_ok=True)
    write_json(path, told)
    return _artifact(name, "request", True, metadata, {}, {REQUEST: path})


def _ids(folder: Path, name: str) -> Iterator[str]:
    yield from read_list(folder, name) or []


def _artifact(
    name: str,
    kind: str,
    used: bool,
    metadata: Mapping[str, Any],
    references: Mapping[str, str],
    files: Mapping[str, Path],
) -> Artifact:
    return {
        "name": name,
        "type": kind,
        "used": used,
        "metadata": dict(metadata),
        "references": dict(references),
        "files": {file: str(path) for file, path in files.items()},
    }
