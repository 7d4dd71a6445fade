"""What a corpus is (a table of utterances and some background noise) and what all corpora share: finding and naming recordings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.audio.formats import SOUNDS, SUFFIXES
from speechforget.data.tables.text import showable
from speechforget.errors import UserError, nearest
from speechforget.seeding import seed_from

SUBSETS = ("train", "validation", "holdout", "test")
NO_ATTRIBUTES = frozenset({"id", "path", "subset", "start", "seconds", "offset", "samples", "sha1", "label", "unit"})


@dataclass(frozen=True)
class Corpus:
    """Recordings and what is known of them.

    root: the folder that paths are relative to, resolved here once, so that links and spelling make no difference.
    table: one row per utterance, sorted by id. Columns: id (stable, unique: the path, or `path@start` for a window of a long recording), path
        (relative to root, with slashes), subset (train, validation or test as the corpus's own lists say, "" where they say nothing), where windows
        exist start and seconds (in seconds; seconds is NaN for "to the end"), and attributes such as word and speaker, all text ("" = unknown).
    noise: recordings of background noise, absolute paths, maybe none.
    steady: of the table what no seed draws, rows and columns (without the subset where a seed draws what tests), so that results of several
        seeds are known to be of one corpus; None where no seed draws anything.
    """

    name: str
    root: Path
    table: pd.DataFrame
    noise: tuple[Path, ...] = ()
    steady: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        root = self.root.expanduser().resolve()
        noise = tuple(
            root / path.relative_to(self.root) if path.is_relative_to(self.root) else path.resolve()
            for path in self.noise
        )
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "noise", noise)
        repeated = self.table["id"][self.table["id"].duplicated()]
        if len(repeated):
            raise UserError(
                f"{self.name}: {repeated.nunique()} utterance ids occur more than once, '{repeated.iloc[0]}' first: list each once."
            )
        if self.table.empty:
            raise UserError(
                f"{self.name}: {self.root} holds no recordings that suit this configuration (dataset.root, dataset.label)."
            )
        for identity in self.table["id"]:
            check_name(identity)


def check_name(name: str) -> None:
    """Raises UserError for a file name that a list of ids, which is UTF-8 text with one id a line, cannot hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"The name of {name!r} is not UTF-8: rename this file.") from None
    if "\n" in name or "\r" in name:
        raise UserError(f"The name of {name!r} holds a line break: rename this file.")


def attributes(table: pd.DataFrame) -> list[str]:
    """The columns that a label, a request or a stratification can name."""
    return [column for column in table.columns if column not in NO_ATTRIBUTES]


def require_label(table: pd.DataFrame, label: str, name: str) -> None:
    """Raises UserError, with what there is, for a label that is no attribute of the table, or one that no row has."""
    known = [column for column in attributes(table) if (table[column] != "").any()]
    if label not in known:
        raise UserError(f"dataset.label is '{label}', which {name} does not know: {nearest(label, known)}.")


def require_root(root: str | os.PathLike[str] | None, name: str, how: str) -> Path:
    """The corpus folder. Raises UserError with `how` to get the corpus when no folder is named or it does not exist."""
    if root is None:
        raise UserError(f"The dataset {name} needs a folder: set dataset.root=FOLDER. {how}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UserError(f"dataset.root={root} is not a folder: set it to where {name} lies. {how}")
    return path


@dataclass(frozen=True)
class Survey:
    """What lies below a folder, each as sorted relative paths with slashes.

    sounds: files that are named like sound, whether libsndfile reads that kind or not, with links of such a name that lead nowhere. hidden: all whose
    name, or a folder's above them, begins with a dot. other: further files. above: links to a folder that they lie in. broken: other links that lead
    nowhere, which may have been folders. closed: folders that cannot be read, and why.
    """

    sounds: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    closed: dict[str, str] = field(default_factory=dict)

    def check(self, folder: Path) -> None:
        """Raises UserError where recordings may lie that cannot be seen, and for a name that `check_name` refuses."""
        for path, reason in self.closed.items():
            raise UserError(
                f"The folder {folder / path} cannot be read ({reason}): change its permissions or move it away."
            )
        for path in self.broken:
            raise UserError(
                f"{showable(str(folder / path))} is a link that leads nowhere, maybe a folder of recordings: mend it or remove it."
            )
        for path in self.sounds:
            check_name(path)


def recordings(folder: Path) -> list[str]:
    """Files that libsndfile may read, at any depth below `folder`, as sorted relative paths with slashes.

    Hidden files, other files, and links to a folder that they lie in are left out. Opens no file. Raises UserError as `Survey.check` does.
    """
    found = survey(folder)
    found.check(folder)
    return [path for path in found.sounds if path.lower().endswith(SUFFIXES)]


def survey(folder: Path) -> Survey:
    """What lies below a folder. Opens no file; links to folders are followed."""
    status = folder.stat()
    found = Survey()
    _walk(found, folder, "", frozenset({(status.st_dev, status.st_ino)}))
    for paths in (found.sounds, found.hidden, found.other, found.above, found.broken):
        paths.sort()
    return found


def _walk(found: Survey, folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> None:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        found.closed[prefix.rstrip("/")] = str(error.strerror)
        return
    for entry in entries:
        path = prefix + entry.name
        if entry.name.startswith("."):
            found.hidden.extend(_hidden(entry, path))
            continue
        is_sound = entry.name.lower().endswith(SOUNDS)
        try:
            is_folder = entry.is_dir()
            status = entry.stat() if is_folder or entry.is_symlink() else None
        except OSError as error:
            if not entry.is_symlink():
                found.closed[path] = str(error.strerror)
            else:  # to nothing, or to itself
                (found.sounds if is_sound else found.broken).append(path)
            continue
        if not is_folder or status is None:
            (found.sounds if is_sound else found.other).append(path)
        elif (place := (status.st_dev, status.st_ino)) in above:
            found.above.append(path)
        else:
            _walk(found, Path(entry.path), f"{path}/", above | {place})


def _hidden(entry: os.DirEntry[str], path: str) -> list[str]:
    if not entry.is_dir(follow_symlinks=False):
        return [path]
    return [f"{path}{folder[len(entry.path) :]}/{name}" for folder, _, names in os.walk(entry.path) for name in names]


def stem(path: str) -> str:
    """The file name of a relative path, without folders and ending."""
    return PurePosixPath(path).stem


def identities(ids: pd.Series) -> NDArray[np.int64]:
    """A number for each id that never changes, to draw from: what is drawn for an utterance does not depend on its neighbours in the table."""
    return np.fromiter(map(seed_from, ids.tolist()), dtype=np.int64, count=len(ids))
