"""Read and write vocab.json, which names the outputs of a `...ForCTC` checkpoint of Hugging Face; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechforget.data.tables.transcript import spelled
from speechforget.data.transcripts import BLANK
from speechforget.errors import UserError

FILE = "vocab.json"
PAD = "<pad>"
SPACE = "|"  # of every published checkpoint, unless tokenizer_config.json has another


def outputs_of(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Return the outputs by name, in their order: "" is the blank, and letters are spelled as transcripts are.

    Other outputs, such as <s>, keep their names. config: the content of config.json; its pad token is the blank.
    Raises UserError for a file that is missing or does not number its outputs from 0.
    """
    try:
        numbers = {str(name): int(number) for name, number in _read(folder / FILE).items()}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} has no readable {FILE} ({error}), which names the letters of its outputs: copy it beside."
        ) from None
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise UserError(f"{folder / FILE} does not number its outputs from 0: copy the checkpoint again.")
    settings = folder / "tokenizer_config.json"
    space = _read(settings).get("word_delimiter_token", SPACE) if settings.exists() else SPACE
    names = sorted(numbers, key=numbers.__getitem__)
    blank = config.get("pad_token_id")
    return [BLANK if number == blank else " " if name == space else _letter(name) for number, name in enumerate(names)]


def write_vocabulary(folder: Path, labels: Sequence[str]) -> None:
    """Write vocab.json for outputs that `outputs_of` reads as the same labels."""
    names = [{BLANK: PAD, " ": SPACE}.get(label, label) for label in labels]
    text = json.dumps({name: number for number, name in enumerate(names)}, ensure_ascii=False)
    (folder / FILE).write_text(text, encoding="utf-8")


def _letter(name: str) -> str:
    return spelled(name) or name if len(name) == 1 else name


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
