"""Export a model: write every format that works for it, the model card, and a record of how each was checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from speechforget.errors import UserError, nearest
from speechforget.export import delta, int8, onnx_file, torchscript
from speechforget.export.card import write_card
from speechforget.export.corpus import Clips, Corpus, clips_of, made_clips, open_corpus
from speechforget.export.graph import Agreement, Graph, agreement
from speechforget.export.library import FILES, TRANSFORMERS, is_of_library, write_library_folder
from speechforget.export.rescore import rescored
from speechforget.export.source import Source, Unsupported, key_of_folder, read_source
from speechforget.export.staging import check_free, staged
from speechforget.inference import BESIDE_LIBRARY, Recogniser, load, scored_windows
from speechforget.models.delivered import delivered
from speechforget.store import provenance, verified, write_json
from speechforget.store.manifest import files_of, sha256

FORMATS = ("folder", "onnx", "torchscript", "int8")
ASKED = ("delta",)  # formats that are made only where they are asked for by name
RECORD = "export.json"


@dataclass
class Export:
    """Hold what the formats of one export share. told: what export.json says about each."""

    source: Source
    folder: Path
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def corpus(self) -> Corpus:
        """Open the recordings of the run. Raises Unsupported if they are gone."""
        return open_corpus(self.source)

    @cached_property
    def clips(self) -> Clips:
        """Take sounds for checks: recordings of the corpus, else generated ones."""
        try:
            return clips_of(self.corpus, self.source.width)
        except Unsupported as reason:
            return made_clips(self.source.width, str(reason))

    def checked(self, found: Agreement) -> dict[str, Any]:
        """Describe a check for export.json."""
        return {**found._asdict(), "checked_on": self.clips.origin}


def export(
    result: Path,
    target: Path,
    formats: Sequence[str] | None = None,
    model: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Export a model of a result to the folder `target`, and return the content of its export.json.

    formats: some of `FORMATS` and `ASKED`; None: all of `FORMATS` that work for the model. model: original, oracle or
    unlearned; None: the one that the result delivers. Nothing is left in `target` after an error. Raises UserError,
    also if a format that was asked for by name does not work.
    """
    for name in formats or ():
        if name not in (*FORMATS, *ASKED):
            raise UserError(f"There is no format '{name}': {nearest(name, (*FORMATS, *ASKED))}.")
    source = read_source(result, model)
    wanted = list(FORMATS) if formats is None else [name for name in (*FORMATS, *ASKED) if name in formats]
    check_free(target, RECORD, overwrite)
    with staged(target, RECORD, overwrite) as folder:
        made = Export(source, folder)
        for name in wanted:
            made.told[name] = _make(made, name, asked=formats is not None)
        if not any(told["made"] for told in made.told.values()):
            raise UserError(f"No format can be made: {made.told[wanted[0]]['reason']}.")
        told = _record(made)
        write_card(folder, source, told)
        told["files"] = dict(_files(folder))
        write_json(folder / RECORD, told)
    return told


def _make(made: Export, name: str, asked: bool) -> dict[str, Any]:
    makers: dict[str, Callable[[Export], dict[str, Any]]] = {
        "folder": _folder,
        "onnx": _onnx,
        "torchscript": _torchscript,
        "int8": _int8,
        "delta": _delta,
    }
    try:
        return {"made": True, **makers[name](made)}
    except Unsupported as reason:
        if asked:
            raise UserError(f"The format {name} cannot be made: {reason}.") from reason
        return {"made": False, "reason": str(reason)}


def _folder(made: Export) -> dict[str, Any]:
    """Write the library's format for an encoder of the library, else our own; ours too where the library's fails."""
    if not is_of_library(made.source.classifier):
        return {"kind": "speechforget", **_own_folder(made)}
    try:
        found = write_library_folder(made.folder, made.source, made.clips.sounds)
    except Unsupported as reason:
        for name in FILES:
            (made.folder / name).unlink(missing_ok=True)
        return {"kind": "speechforget", "not_transformers": str(reason), **_own_folder(made)}
    # The library's weights have no low-rank updates, and a loaded model is not trained.
    kind = made.source.classifier.encoder.config.model_type  # type: ignore[union-attr]
    changes = {"architecture": {"model_type": kind}, "tune": "whole", "layers": None, "revision": None}
    _write_description(made, BESIDE_LIBRARY, **changes)
    return {"kind": TRANSFORMERS, **made.checked(found), "loaded": _loads(made)._asdict()}


def _own_folder(made: Export) -> dict[str, Any]:
    shutil.copyfile(verified(made.source.model.folder, "weights.safetensors"), made.folder / "weights.safetensors")
    _write_description(made, "model.json")
    return made.checked(_loads(made))


def _write_description(made: Export, name: str, **changes: Any) -> None:
    """Write the file by which `speechforget.load` builds the classifier. changes: of the model's options."""
    described = made.source.description
    told = {**described, "model": {**described["model"], **changes}, "windows": scored_windows(made.source.result)}
    write_json(made.folder / name, told)


def _loads(made: Export) -> Agreement:
    """Load the exported folder as a user does, and compare it with the model."""
    found: Recogniser = load(made.folder, device="cpu")
    width = made.source.width
    return agreement(Graph(made.source.classifier, width), Graph(found.classifier, width), made.clips.sounds)


def _onnx(made: Export) -> dict[str, Any]:
    onnx_file.need_packages()
    found = onnx_file.write_onnx(made.folder, made.source, made.clips.sounds)
    return {"file": onnx_file.FILE, "opset": onnx_file.OPSET, **made.checked(found)}


def _torchscript(made: Export) -> dict[str, Any]:
    found, looped = torchscript.write_torchscript(made.folder, made.source, made.clips.sounds)
    return {"file": torchscript.FILE, "loops_over_batch": looped, **made.checked(found)}


def _int8(made: Export) -> dict[str, Any]:
    int8.check_small(made.source.classifier)
    onnx_file.need_packages()
    float_file = made.folder / onnx_file.FILE
    here = float_file.exists()
    try:
        if not here:
            onnx_file.write_onnx(made.folder, made.source, made.clips.sounds)
        calibrated = int8.write_int8(made.folder, float_file, made.corpus)
    finally:
        if not here:
            float_file.unlink(missing_ok=True)
    columns = int8.score_file(made.folder / int8.FILE, made.corpus)
    scores = rescored(made.source, made.corpus, columns)
    return {"file": int8.FILE, "calibrated_on": f"{calibrated} retained recordings", "scores": scores}


def _delta(made: Export) -> dict[str, Any]:
    told, found = delta.write_delta(made.folder, made.source, made.clips.sounds)
    return {**told, **made.checked(found)}


def _record(made: Export) -> dict[str, Any]:
    source, about = made.source, provenance()
    return {
        "result": {"key": source.key},
        "model": {"name": source.model.name, "key": key_of_folder(source.model.folder)},
        "delivered": source.model.name == delivered(source.record),
        "labels": source.description["labels"],
        "sample_rate": source.description["sample_rate"],
        "seconds": source.description["seconds"],
        "versions": {**about["versions"], "torch": torch.__version__},
        "commit": about["commit"],
        "time": about["time"],
        "formats": made.told,
    }


def _files(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in files_of(folder):
        name = path.relative_to(folder).as_posix()
        yield name, {"bytes": path.stat().st_size, "sha256": sha256(path)}
