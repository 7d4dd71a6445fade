"""Classify or transcribe recordings with the model of a result or of an exported folder (`speechforget classify`)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechforget.errors import UserError
from speechforget.terminal import print_anywhere
from speechforget.training.runtime import settle

if TYPE_CHECKING:
    from speechforget.inference import Recogniser

SHOWN = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each recording; return 1 if the model or a recording cannot be used."""
    print_anywhere()
    settle()
    parser = argparse.ArgumentParser("speechforget classify", description=__doc__)
    parser.add_argument("result", help="a result folder, an exported folder, or a model folder")
    parser.add_argument("recordings", nargs="+", type=Path, metavar="recording", help="audio files, or folders of them")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:1 ... (default: auto, a GPU if there is one)")
    parser.add_argument(
        "--windows", default="scored", help="crops of longer recordings: scored | middle | average (default: scored)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, with all probabilities")
    options = parser.parse_args(arguments)
    from speechforget.inference import load

    failed = 0
    try:
        recogniser = load(options.result, options.device, options.windows)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for path in _files(options.recordings):
        try:
            print(_line(recogniser, path, options.json))
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            failed = 1
    return failed


def _line(recogniser: Recogniser, path: Path, as_json: bool) -> str:
    """Write what the model hears in a recording: its text, or its classes."""
    if recogniser.transcribes:
        text = recogniser.transcribe(path)
        return json.dumps({"recording": str(path), "text": text}, ensure_ascii=False) if as_json else f"{path}: {text}"
    found = recogniser.classify(path)
    ranked = sorted(found.probabilities.items(), key=lambda item: -item[1])
    if as_json:
        told = {"recording": str(path), "label": found.label, "probabilities": dict(ranked)}
        return json.dumps(told, ensure_ascii=False)
    return f"{path}: {', '.join(f'{label} {share:.1%}' for label, share in ranked[:SHOWN])}"


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files, and those inside of folders in a fixed order."""
    for path in paths:
        yield from sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
