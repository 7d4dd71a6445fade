"""SLURP: intents, about 72,000 recordings; sound CC BY-NC 4.0.

Bastianelli, Vanzo, Swietojanski & Rieser, EMNLP 2020, arXiv:2011.13205.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from speechforget.data.corpora.base import Corpus, recordings, require_label, require_root, stem
from speechforget.data.corpora.completeness import check_listed, contradictory, examples
from speechforget.data.corpora.speaker_split import speakers_apart
from speechforget.data.tables.transcript import TEXT
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

HOW = (
    "Clone https://github.com/pswietojanski/slurp, unpack slurp_real.tar.gz (https://zenodo.org/record/4274930, CC "
    "BY-NC 4.0) into its folder audio, and set dataset.root to the clone."
)
FIX = "unpack slurp_real.tar.gz again into the folder audio"
LISTS = {"train": "train.jsonl", "validation": "devel.jsonl", "test": "test.jsonl"}
SYNTHETIC = "train_synthetic.jsonl"
# Listed, but not in the archive (issue 2 of the corpus's repository).
NOT_PUBLISHED = frozenset({"slurp_real/audio-1434527177-headset.flac"})
# FE-488: female, English; MO: male, other; UNK: unknown.
USER = re.compile(r"(?P<gender>[A-Za-z]*?)(?P<native>[EO]?)-\d+")
GENDERS, NATIVE = {"F": "female", "M": "male"}, {"E": "native", "O": "non-native"}


def index(
    root: str | Path | None,
    label: str,
    cache: Path,
    split: str = "speaker",
    validation: float = 0.1,
    test: float = 0.1,
    microphone: str = "all",
    synthetic: bool = False,
    complete: bool = True,
    seed: int = 0,
) -> Corpus:
    """Index dataset/slurp/{train,devel,test}.jsonl and metadata.json, audio/slurp_real/<file>.flac.

    Columns: intent (scenario_action), scenario, action, sentence, microphone (headset or distant; many utterances were
        recorded with both), and, from metadata.json, speaker, gender and native (native or non-native). Ids are
        slurp_real/<file>.

    split: "speaker" (whole speakers, drawn by seed, validate and test, with the shares `validation` and `test` of the
        recordings; recordings of unknown speakers are left out) or "official" (the lists, which share speakers).
    microphone: all, headset or distant.
    synthetic: true adds the synthesised recordings (audio/slurp_synth) to training, without a speaker.
    complete: true raises a UserError that names missing recordings; false logs them and goes on.

    The published lists contain some recordings under two sentences (issue 7 of the repository). With one intent they
    are used once. With two intents (or, for split=official, in two lists) they are left out and logged. For label text,
    which is the sentence, so are those with two sentences.
    """
    folder = require_root(root, "slurp", HOW)
    _check(label, split, validation, test, microphone)
    listed = pd.concat(
        [_listed(folder, name, subset, "slurp_real") for subset, name in LISTS.items()], ignore_index=True
    )
    found = _found(folder, "slurp_real")
    wanted = _once(listed, split, label)
    wanted = wanted[wanted["microphone"].isin([microphone] if microphone != "all" else ["headset", "distant"])]
    there = found.keys() - (set(listed["path"]) - set(wanted["path"]))
    expected = wanted[~wanted["path"].isin(NOT_PUBLISHED - found.keys())]
    table = _with_speakers(check_listed("slurp", expected, there, complete, FIX), folder, split)
    if split == "speaker":
        shares = {"test": test, "validation": validation, "train": 1 - test - validation}
        table = table.assign(subset=speakers_apart(table["speaker"], shares, seed))
    if synthetic:
        made, found = _synthetic(folder, label, complete), {**found, **_found(folder, "slurp_synth")}
        table = pd.concat([table, made], ignore_index=True).fillna("")
    table = table.rename(columns={"path": "id"}).sort_values("id", ignore_index=True)
    table.insert(1, "path", table["id"].map(found))
    if label == TEXT:
        table[TEXT] = table["sentence"]
    require_label(table, label, "slurp")
    return Corpus("slurp", folder, table, steady=table.drop(columns="subset") if split == "speaker" else None)


def _check(label: str, split: str, validation: float, test: float, microphone: str) -> None:
    if split not in {"speaker", "official"}:
        raise UserError(f"dataset.corpus.split is '{split}': choose speaker or official.")
    if microphone not in {"all", "headset", "distant"}:
        raise UserError(f"dataset.corpus.microphone is '{microphone}': choose all, headset or distant.")
    if split == "speaker" and (validation < 0 or test <= 0 or validation + test >= 1):
        raise UserError(
            f"dataset.corpus.validation={validation} and dataset.corpus.test={test} must be shares that leave "
            "recordings to train on."
        )
    if split == "speaker" and label == "speaker":
        raise UserError(
            "dataset.corpus.split=speaker keeps speakers apart, so test speakers are not in training: set "
            "dataset.corpus.split=official for dataset.label=speaker."
        )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _entry(json.loads(line), path, number)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The list {path} cannot be read ({error}): set dataset.root to the folder of SLURP. {HOW}"
        ) from None


def _entry(entry: Any, path: Path, number: int) -> dict[str, Any]:
    wanted = ("intent", "recordings")
    if not isinstance(entry, dict) or any(name not in entry for name in wanted):
        raise UserError(
            f"Line {number} of {path} is not an entry with {' and '.join(wanted)}: restore the file from the "
            f"repository. {HOW}"
        )
    return entry


def _listed(folder: Path, name: str, subset: str, archive: str) -> pd.DataFrame:
    """Read one row per recording of each line; its path is archive/file."""
    rows = [
        {
            "path": f"{archive}/{recording['file'] if isinstance(recording, Mapping) else recording}",
            "subset": subset,
            **{column: str(entry.get(column, "")) for column in ("intent", "scenario", "action", "sentence")},
        }
        for entry in _lines(folder / "dataset" / "slurp" / name)
        for recording in entry["recordings"]
    ]
    table = pd.DataFrame(rows, columns=["path", "subset", "intent", "scenario", "action", "sentence"], dtype=str)
    headset = table["path"].str.contains("-headset", regex=False)
    return table.assign(microphone=headset.map({True: "headset", False: "distant"}) if archive == "slurp_real" else "")


def _once(listed: pd.DataFrame, split: str, label: str) -> pd.DataFrame:
    """Return every recording once, without those about which the lists contradict each other."""
    columns = ["intent", *["subset"] * (split == "official"), *["sentence"] * (label == TEXT)]
    unclear = contradictory(listed, columns)
    if unclear.any():
        paths = listed.loc[unclear, "path"].unique()
        differs = {"intent": "under different intents", "subset": "in different lists", "sentence": "as two sentences"}
        where = " or ".join(differs[column] for column in columns)
        logger.warning("slurp: %d recordings are listed %s and are left out (%s)", len(paths), where, examples(paths))
    doubled = int(listed[~unclear]["path"].duplicated().sum())
    if doubled:
        logger.info("slurp: %d recordings are listed more than once with the same intent: each is used once", doubled)
    return listed[~unclear].drop_duplicates("path")


def _found(folder: Path, archive: str) -> dict[str, str]:
    """Map archive/file to the path below the root."""
    for prefix in (f"audio/{archive}", archive):
        if (folder / prefix).is_dir():
            return {f"{archive}/{path}": f"{prefix}/{path}" for path in recordings(folder / prefix)}
    raise UserError(f"{folder} has no folder audio/{archive}: unpack {archive}.tar.gz into {folder / 'audio'}. {HOW}")


def _synthetic(folder: Path, label: str, complete: bool) -> pd.DataFrame:
    listed = _once(_listed(folder, SYNTHETIC, "train", "slurp_synth"), "speaker", label)
    fix = "unpack slurp_synth.tar.gz again into the folder audio, or set dataset.corpus.synthetic=false"
    return check_listed("slurp", listed, _found(folder, "slurp_synth").keys(), complete, fix)


def _with_speakers(table: pd.DataFrame, folder: Path, split: str) -> pd.DataFrame:
    """Add speaker, gender and native, "" where unknown; for split=speaker, leave out recordings of unknown speakers."""
    path = folder / "dataset" / "slurp" / "metadata.json"
    try:
        users = _users(json.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        users = {}
        logger.warning("slurp: %s is missing, so speakers are unknown", path)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"The metadata {path} cannot be read ({error}): restore the file from the repository. {HOW}"
        ) from None
    speaker = table["path"].map(lambda name: users.get(_bare(name), ""))
    matches = {user: match for user in speaker.unique() if (match := USER.fullmatch(user))}
    gender = {user: GENDERS.get(match["gender"].upper(), "") for user, match in matches.items()}
    native = {user: NATIVE.get(match["native"].upper(), "") for user, match in matches.items()}
    table = table.assign(
        speaker=speaker,
        gender=[gender.get(user, "") for user in speaker],
        native=[native.get(user, "") for user in speaker],
    )
    unknown = table["speaker"] == ""
    if split == "speaker" and unknown.all():
        raise UserError(
            f"dataset.corpus.split=speaker needs the speakers in {path}: restore the file, or set "
            f"dataset.corpus.split=official. {HOW}"
        )
    if split == "speaker" and unknown.any():
        logger.warning(
            "slurp: %d recordings of unknown speakers are left out (%s)",
            int(unknown.sum()),
            examples(table.loc[unknown, "path"]),
        )
        return table[~unknown]
    return table


def _users(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Map each recording to its speaker; keys are file names without `audio-` and suffix."""
    users = {}
    for entry in metadata.values():
        found = entry.get("recordings") or {}
        pairs = found.items() if isinstance(found, Mapping) else ((each["file"], each) for each in found)
        users.update({_bare(name): str(about.get("usrid") or "") for name, about in pairs})
    return users


def _bare(name: str) -> str:
    return stem(name).removeprefix("audio-")
