"""A corpus (a table of utterances and background noise), and how corpora find and name their recordings."""

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
NO_ATTRIBUTES = frozenset(
    {"id", "path", "subset", "start", "seconds", "offset", "samples", "sha1", "label", "unit"}
    | {"planted", "taught", "surplus"}
)


@dataclass(frozen=True)
class Corpus:
    """Utterances with their attributes, and background noise.

    root: the folder that paths are relative to; resolved here, so that links and spelling make no difference.
    table: one row per utterance, sorted by id. Columns: id (stable and unique: the path, or `path@start` for a window
        of a long recording), path (relative to root, with slashes), subset (train, validation or test as the corpus's
        own lists say, else ""), for windows start and seconds (both in seconds; seconds NaN means "to the end"), and
        attributes such as word and speaker, all text ("" means unknown).
    noise: recordings of background noise, absolute paths.
    steady: the rows and columns of the table that do not depend on a seed (without subset, where a seed draws it). It
        tells that results of several seeds are of one corpus. None where no seed draws anything.
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
                f"{self.name}: {repeated.nunique()} utterance ids occur more than once, first '{repeated.iloc[0]}': "
                "list each id once."
            )
        if self.table.empty:
            raise UserError(
                f"{self.name}: {self.root} holds no recordings that fit this configuration: check dataset.root and "
                "dataset.label."
            )
        for identity in self.table["id"]:
            check_name(identity)


def check_name(name: str) -> None:
    """Raise UserError for a name that a list of ids (UTF-8 text, one id a line) cannot hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"The file name {name!r} is not UTF-8: rename the file.") from None
    if "\n" in name or "\r" in name:
        raise UserError(f"The file name {name!r} contains a line break: rename the file.")


def attributes(table: pd.DataFrame) -> list[str]:
    """List the columns that a label, a request or a stratification can name."""
    return [column for column in table.columns if column not in NO_ATTRIBUTES]


def require_label(table: pd.DataFrame, label: str, name: str) -> None:
    """Raise UserError, with the labels that exist, for one that is no attribute of the table or that no row has."""
    known = [column for column in attributes(table) if (table[column] != "").any()]
    if label not in known:
        raise UserError(f"dataset.label is '{label}', which {name} does not have: {nearest(label, known)}.")


def require_root(root: str | os.PathLike[str] | None, name: str, how: str) -> Path:
    """Return the corpus folder. Raises UserError, with `how` to get the corpus, if there is no such folder."""
    if root is None:
        raise UserError(f"The dataset {name} needs a folder: set dataset.root=FOLDER. {how}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UserError(f"dataset.root={root} is not a folder: set it to the folder of {name}. {how}")
    return path


@dataclass(frozen=True)
class Survey:
    """What is below a folder, as sorted relative paths with slashes.

    sounds: files with a name of a sound format, whether libsndfile reads it or not, and links with such a name to
        nothing.
    hidden: files whose name, or a folder above them, begins with a dot. other: all other files. above: links to a
        folder that contains them. broken: other links to nothing, which may have been folders. closed: folders that
        cannot be read, and why.
    """

    sounds: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    closed: dict[str, str] = field(default_factory=dict)

    def check(self, folder: Path) -> None:
        """Raise UserError where recordings may be hidden from view, and for a name that `check_name` refuses."""
        for path, reason in self.closed.items():
            raise UserError(
                f"The folder {folder / path} cannot be read ({reason}): change its permissions, or move it away."
            )
        for path in self.broken:
            raise UserError(
                f"{showable(str(folder / path))} is a link to nothing; it may have been a folder of recordings: "
                "correct or delete the link."
            )
        for path in self.sounds:
            check_name(path)


def recordings(folder: Path) -> list[str]:
    """List the files below `folder` that libsndfile may read, as sorted relative paths with slashes.

    Leaves out hidden files, other files, and links to a folder that contains them. Opens no file. Raises UserError as
    `Survey.check` does.
    """
    found = survey(folder)
    found.check(folder)
    return [path for path in found.sounds if path.lower().endswith(SUFFIXES)]


def survey(folder: Path) -> Survey:
    """List everything below a folder. Opens no file; follows links to folders."""
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
            else:  # a link to nothing, or to itself
                (found.sounds if is_sound else found.broken).append(path)
            continue
        if not is_folder or status is None:
            (found.sounds if is_sound else found.other).append(path)
        elif (inode := (status.st_dev, status.st_ino)) in above:
            found.above.append(path)
        else:
            _walk(found, Path(entry.path), f"{path}/", above | {inode})


def _hidden(entry: os.DirEntry[str], path: str) -> list[str]:
    if not entry.is_dir(follow_symlinks=False):
        return [path]
    return [f"{path}{folder[len(entry.path) :]}/{name}" for folder, _, names in os.walk(entry.path) for name in names]


def stem(path: str) -> str:
    """Return the file name of a relative path, without folders and suffix."""
    return PurePosixPath(path).stem


def identities(ids: pd.Series) -> NDArray[np.int64]:
    """Map each id to a fixed number to draw from, so that no draw depends on the other rows. Returns int64 (rows,)."""
    return np.fromiter(map(seed_from, ids.tolist()), dtype=np.int64, count=len(ids))
