"""Labels, subsets and background noise, read from the folders that recordings are in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from speechforget.data.corpora.base import Survey
from speechforget.data.corpora.completeness import examples
from speechforget.data.tables.manifest import SUBSET_NAMES, ids_of
from speechforget.data.tables.text import showable, tidy
from speechforget.errors import UserError

NOISES = ("noise", "background_noise", "background noise", "background-noise")
BACKGROUND = "_background_noise_"
OPTION = "dataset.corpus.folders"


@dataclass(frozen=True)
class Layout:
    """What a manifest or folders say about recordings.

    table: columns id, path, subset and the attributes of each recording. noise: paths of background noise.
    ignored: reason -> paths. notes: what was read in another way than it is written. lines: the manifest line of each
        row. companions: paths of the transcripts beside recordings.
    """

    table: pd.DataFrame
    noise: list[str] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    companions: list[str] = field(default_factory=list)


def read_folders(root: Path, found: Survey, column: str, folders: str | None, how: str) -> Layout:
    """Read <label>/<file> or, where all first folders have names of subsets, <subset>/<label>/<file>.

    column: the name of the label. folders: "labels" or "subsets", the meaning of the first folders; None decides by
        their names. how: the layout in words, for the error.
    Folders of background noise are no labels. Other folders that begin with _ are labels only if `folders` is
    "labels". Raises UserError where no recording is in a folder, and where names leave open what a folder means.
    """
    if folders not in (None, "labels", "subsets"):
        raise UserError(f"{OPTION} is '{folders}': choose labels or subsets, or null to decide by the folder names.")
    found.check(root)
    if top := [path for path in found.above if "/" not in path]:
        raise UserError(f"{showable(str(root / top[0]))} is a link to a folder that contains it: delete the link.")
    noise = [path for path in found.sounds if _is_noise(path, folders)]
    rest = sorted(set(found.sounds) - set(noise))
    marked = [path for path in rest if folders is None and path.startswith("_") and "/" in path]
    rest = sorted(set(rest) - set(marked))
    deep = _has_subsets(root, rest, folders)
    inside = [path for path in rest if path.count("/") > deep]
    ignored = {"in no folder, so without a label": [path for path in rest if "/" not in path]}
    ignored[f"in folders that begin with _ ({OPTION}=labels makes them labels)"] = marked
    if not inside:
        kinds = "; ".join(f"{len(paths)} {reason}" for reason, paths in ignored.items() if paths)
        raise UserError(f"{root} holds no recordings in folders{f' ({kinds})' if kinds else ''}. {how}")
    parts = [path.split("/") for path in inside]
    labels = [tidy(each[deep]) for each in parts]
    subset = [SUBSET_NAMES[tidy(each[0]).lower()] if deep else "" for each in parts]
    table = pd.DataFrame({"id": ids_of(pd.Series(inside)), "path": inside, "subset": subset, column: labels}, dtype=str)
    notes = _notes(parts, deep, column)
    if noise:
        notes.append(f"{_folders_of(noise)} is used as background noise, not as a {column}")
    return Layout(table, noise, ignored, notes)


def _is_noise(path: str, folders: str | None) -> bool:
    """Recognise _background_noise_ (Speech Commands) at any depth, and other spellings where a label could be."""
    above = [part.casefold() for part in path.split("/")[:-1]]
    return BACKGROUND in above or (folders != "labels" and any(part.strip("_") in NOISES for part in above[:2]))


def _has_subsets(root: Path, paths: list[str], folders: str | None) -> bool:
    """Decide whether the first folders are subsets."""
    inside = [path for path in paths if "/" in path]
    names = sorted({path.partition("/")[0] for path in inside})
    subsets = [name for name in names if tidy(name).lower() in SUBSET_NAMES]
    if folders == "labels" or (folders is None and not subsets):
        return False
    flat = sorted({path.partition("/")[0] for path in inside if path.count("/") == 1})
    if len(subsets) == len(names) and not flat:
        return bool(names)
    other = sorted(set(names) - set(subsets))
    if not subsets:
        raise UserError(
            f"{OPTION} is subsets, but no folder in {root} has the name of a subset (there are {examples(other)}): "
            "name them train, validation and test, or set it to null."
        )
    why = f"'{other[0]}' has not" if other else f"'{flat[0]}' holds recordings outside of label folders"
    raise UserError(
        f"{root} has folders with names of subsets ({examples(subsets)}), but {why}: move all recordings to "
        f"<subset>/<label>/<file>, or list them in a manifest, or use all first folders as labels with {OPTION}=labels."
    )


def _folders_of(paths: list[str]) -> str:
    return examples({path.rpartition("/")[0] for path in map(showable, paths)})


def _notes(parts: list[list[str]], deep: bool, column: str) -> list[str]:
    notes = []
    if deep:
        first = examples({each[0] for each in parts})
        notes.append(f"the first folders ({first}) are subsets, the folders in them are {column}s")
    tidied = sorted(name for name in {each[deep] for each in parts} if tidy(name) != name)
    if tidied:
        shown = showable(", ".join(map(repr, tidied[:3])))
        notes.append(f"spaces at the ends, or the Unicode form, of folder names are normalised: {shown}")
    deeper = sum(len(each) > 2 + deep for each in parts)
    if deeper:
        notes.append(f"{deeper} recordings are in deeper folders below a {column}'s; the names of these are not used")
    return notes
