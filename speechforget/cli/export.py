"""Export the model of a result for other programs, or hand a result over whole (`speechforget export`)."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.export.bundle import bundle
from speechforget.store.listing import size
from speechforget.terminal import print_anywhere
from speechforget.training.runtime import settle

EXAMPLES = """\
examples:
  speechforget export outputs/result/scrub-... my_model              every format that works for the model
  speechforget export outputs/result/scrub-... my_model --format folder,onnx
  speechforget export outputs/result/scrub-... my_oracle --model oracle
  speechforget export outputs/result/scrub-... my_delta --format delta      the change of method.trainable=lora
  speechforget export outputs/result/scrub-... --bundle handed_over  the result with all that it depends on

Formats: folder (speechforget or transformers), onnx, torchscript, int8 (ONNX, with scores of its own);
asked for by name only: delta (what unlearning changed, for its original model)."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "speechforget export",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("result", type=Path, help="the result folder that a run prints at its end")
    parser.add_argument("folder", type=Path, nargs="?", help="new folder of the model")
    parser.add_argument("--model", help="original, oracle or unlearned (default: the one that the result delivers)")
    parser.add_argument("--format", help="formats, separated by commas (default: all that work for the model)")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="copy the result with all that it depends on")
    parser.add_argument("--with-ids", action="store_true", help="with --bundle: include lists of recordings, too")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in that folder")
    options = parser.parse_args(arguments)
    if (options.folder is None) == (options.bundle is None):
        parser.error("give a folder for the model, or --bundle FOLDER")
    if options.bundle is not None and (options.model or options.format):
        parser.error("--model and --format do not apply to --bundle, which copies all models")
    if options.with_ids and options.bundle is None:
        parser.error("--with-ids is for --bundle: an exported model never has lists of recordings")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 after a user mistake, which one sentence explains."""
    print_anywhere()
    settle()
    options = _arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        if options.bundle is not None:
            told = bundle(options.result, options.bundle, with_ids=options.with_ids, overwrite=options.overwrite)
            print("\n".join(told["notes"]))
            print(f"Bundle: {options.bundle} ({len(told['artefacts'])} artefacts, {size(told['bytes'])})")
            return 0
        from speechforget.export.model_folder import export

        formats = None if options.format is None else [name.strip() for name in options.format.split(",")]
        for line in _lines(export(options.result, options.folder, formats, options.model, options.overwrite)):
            print(line)
        print(f"Exported: {options.folder}")
        return 0
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _lines(told: dict[str, Any]) -> list[str]:
    """Say which model was exported, how each format was checked, and why one is missing."""
    delivered = "the delivered model" if told["delivered"] else "not the model that the result delivers"
    lines = [f"Model: {told['model']['name']}, {delivered}"]
    for name, one in told["formats"].items():
        if not one["made"]:
            lines.append(f"{name}: not made, because {one['reason']}")
            continue
        if "scores" in one:
            moved = one["scores"]["moved"] or ["no number left the interval that it had before"]
            lines.append(f"{name}: {one['scores']['agreement']:.2%} of answers as before; {'; '.join(moved)}")
            continue
        kind = f" of {one['kind']}" if "kind" in one else ""
        why = f" (not of transformers: {one['not_transformers']})" if "not_transformers" in one else ""
        lines.append(
            f"{name}{kind}: outputs differ from PyTorch's by {one['largest_difference']:.1g} at most on "
            f"{one['recordings']} {one['checked_on']}{why}"
        )
    return lines
