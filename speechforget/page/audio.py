"""The recordings of one request as sound inside a page, only if a user asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.record.folders import Outputs
from speechforget.record.request import read_list
from speechforget.report.charts.names import SHOWN, Names
from speechforget.report.sounds import wav_files
from speechforget.stages.split import split_corpus
from speechforget.store import Store
from speechforget.store.files import read_json

MOST = 12_000_000  # bytes of all sounds in a page


def find_result(outputs: Outputs, asked: str) -> Path:
    """Return the folder of the result that a user names by its folder or the first digits of its key.

    Raises UserError if it names none, or several.
    """
    word = asked.rstrip("/").rpartition("/")[2]
    found = [
        folder for folder in outputs.results if word and (folder.name == word or outputs.key(folder).startswith(word))
    ]
    if len(found) != 1:
        raise UserError(
            f"--audio {asked} names {len(found)} of the {len(outputs.results)} results below {outputs.folder}: "
            "give the folder of one, or the first digits of its key."
        )
    return found[0]


def read_audio(outputs: Outputs, asked: str, names: Names) -> dict[str, dict[str, str]]:
    """Return the forget recordings of a result: key of the result -> name -> WAV file as base64.

    Raises UserError if the recordings are not here, or are too long for a page.
    """
    folder = find_result(outputs, asked)
    config: dict[str, Any] = read_json(folder / "about.json").get("config") or {}
    ids = read_list(folder, "forget")
    if not config or not ids:
        raise UserError(f"--audio {asked}: {folder.name} records no recordings: leave out --audio.")
    output = folder.parents[1]  # it may have moved since the run
    if Path(config["cache"]) == Path(config["output"]) / "cache":
        config = {**config, "cache": str(output / "cache")}
    audio = split_corpus(config, Store(output)).audio
    table, rate = audio.table.set_index("id"), int(config["dataset"]["sample_rate"])
    missing = [identity for identity in ids if identity not in table.index]
    if missing:
        raise UserError(f"--audio {asked}: {len(missing)} recordings are no longer in the corpus: leave out --audio.")
    if (size := int(2 * table.loc[ids, "samples"].sum())) > MOST:
        raise UserError(
            f"--audio {asked}: its {len(ids)} recordings are {size / 1e6:.0f} MB, and a page takes {MOST / 1e6:.0f}: "
            "leave out --audio."
        )
    sounds = {names.shown(identity): wav for identity, wav in wav_files(audio, ids, rate).items()}
    return {outputs.key(folder)[:SHOWN]: sounds}
