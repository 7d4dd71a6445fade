"""What folders say of the recordings in them: labels, subsets, background noise."""

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
    """What was read. table: id, path, subset and what else is known of each recording. noise: paths of background noise.

    ignored: reason -> paths. said: notes. lines: of the manifest, for each row.
    """

    table: pd.DataFrame
    noise: list[str] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def by_folder(root: Path, found: Survey, column: str, folders: str | None, how: str) -> Layout:
    """The recordings of <label>/<file> or, where all first folders are named like subsets, of <subset>/<label>/<file>.

    column: what the label is called. folders: labels or subsets, what the first folders are; None: as their names tell. how: how it should be.
    Folders of background noise are no labels, nor are, unless `folders` is labels, others whose names begin with _. Raises UserError where
    no recording lies in a folder, and where names leave open what a folder is.
    """
    if folders not in (None, "labels", "subsets"):
        raise UserError(f"{OPTION} is '{folders}': choose labels or subsets, or null to tell by their names.")
    found.check(root)
    if top := [path for path in found.above if "/" not in path]:
        raise UserError(f"{showable(str(root / top[0]))} is a link to a folder that it lies in: remove it.")
    noise = [path for path in found.sounds if _is_noise(path, folders)]
    rest = sorted(set(found.sounds) - set(noise))
    marked = [path for path in rest if folders is None and path.startswith("_") and "/" in path]
    rest = sorted(set(rest) - set(marked))
    deep = _has_subsets(root, rest, folders)
    inside = [path for path in rest if path.count("/") > deep]
    ignored = {"in no folder, so without a label": [path for path in rest if "/" not in path]}
    ignored[f"in folders whose names begin with _ ({OPTION}=labels makes them labels)"] = marked
    if not inside:
        kinds = "; ".join(f"{len(paths)} {reason}" for reason, paths in ignored.items() if paths)
        raise UserError(f"{root} holds no recordings in folders{f' ({kinds})' if kinds else ''}. {how}")
    parts = [path.split("/") for path in inside]
    labels = [tidy(each[deep]) for each in parts]
    subset = [SUBSET_NAMES[tidy(each[0]).lower()] if deep else "" for each in parts]
    table = pd.DataFrame({"id": ids_of(pd.Series(inside)), "path": inside, "subset": subset, column: labels}, dtype=str)
    said = _notes(parts, labels, deep, column)
    if noise:
        said.append(f"{_folders_of(noise)} is taken for background noise, not for a {column}")
    return Layout(table, noise, ignored, said)


def _is_noise(path: str, folders: str | None) -> bool:
    """_background_noise_ as in Speech Commands wherever it lies; other spellings where a label would stand, unless all folders are labels."""
    above = [part.casefold() for part in path.split("/")[:-1]]
    return BACKGROUND in above or (folders != "labels" and any(part.strip("_") in NOISES for part in above[:2]))


def _has_subsets(root: Path, paths: list[str], folders: str | None) -> bool:
    """Whether the first folders are subsets."""
    inside = [path for path in paths if "/" in path]
    names = sorted({path.partition("/")[0] for path in inside})
    subsets = [name for name in names if tidy(name).lower() in SUBSET_NAMES]
    if folders == "labels" or (folders is None and not subsets):
        return False
    flat = sorted(
        name for name in names if any(path.partition("/")[0] == name and path.count("/") == 1 for path in inside)
    )
    if len(subsets) == len(names) and not flat:
        return bool(names)
    other = sorted(set(names) - set(subsets))
    if not subsets:
        raise UserError(
            f"{OPTION} is subsets, and {root} holds no folder named like one: {examples(other)}; leave it at null."
        )
    why = f"'{other[0]}' is not" if other else f"'{flat[0]}' holds recordings outside of label folders"
    raise UserError(
        f"{root} has folders named like subsets ({examples(subsets)}), but {why}: put all recordings into <subset>/<label>/<file>, or name them "
        f"in a manifest; {OPTION}=labels takes all first folders for labels."
    )


def _folders_of(paths: list[str]) -> str:
    return examples({path.rpartition("/")[0] for path in map(showable, paths)})


def _notes(parts: list[list[str]], labels: list[str], deep: bool, column: str) -> list[str]:
    said = []
    if deep:
        said.append(
            f"the first folders ({examples({each[0] for each in parts})}) are subsets, the folders in them {column}s"
        )
    written = {each[deep] for each in parts}
    tidied = sorted(name for name in written if tidy(name) != name)
    if tidied:
        said.append(
            f"blanks or the Unicode form of folder names are evened out: {showable(', '.join(map(repr, tidied[:3])))}"
        )
    deeper = sum(len(each) > 2 + deep for each in parts)
    if deeper:
        said.append(f"{deeper} recordings lie in further folders below a {column}'s, whose names are not used")
    return said
