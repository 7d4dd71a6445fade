"""Build several missing artefacts together, each under its own lock and published on its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from speechforget.errors import UserError
from speechforget.store.claims import Claim
from speechforget.store.files import explained, make_folder
from speechforget.store.folder import Artefact, begin, check_record, publish
from speechforget.store.locks import locked, locked_if_free
from speechforget.store.manifest import read_done


@dataclass(frozen=True)
class Wanted:
    """An artefact to find or make. stage, name, inputs: see `Store.produce`.

    config: recorded beside a new artefact instead of the store's, such as one with another seed.
    """

    stage: str
    name: str
    inputs: Mapping[str, Any]
    config: Mapping[str, Any] | None = None


class Missing(NamedTuple):
    """A folder to fill. number: its place among the wanted artefacts."""

    number: int
    folder: Path
    key: str


# Called with the number of an artefact as soon as its folder is filled, or with the error that left it unfinished.
Ended = Callable[[int, UserError | None], None]
# Called with the number of an artefact that is to be built on its own, later or by another process.
Later = Callable[[int], None]
BuildMany = Callable[[Sequence[Missing], Ended, Later], None]


class Producer(Protocol):
    """Declare the methods of a store that a pipeline calls."""

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`."""
        ...

    def produce_many(self, wanted: Sequence[Wanted], build: BuildMany) -> list[Artefact]:
        """See `Store.produce_many`."""
        ...


class OneByOne:
    """Give a class with `produce` the other method of a `Producer`."""

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`."""
        raise NotImplementedError

    def produce_many(self, wanted: Sequence[Wanted], build: BuildMany) -> list[Artefact]:
        """Return the artefacts in the order of `wanted`; build the missing ones one after another."""
        return [
            self.produce(one.stage, one.name, one.inputs, partial(_build_one, build, number))
            for number, one in enumerate(wanted)
        ]


def _build_one(build: BuildMany, number: int, folder: Path, key: str) -> None:
    errors: list[UserError | None] = []
    build([Missing(number, folder, key)], lambda _, error: errors.append(error), lambda _: None)
    if not errors:
        raise RuntimeError(f"{folder} was neither built nor given up")
    if errors[0] is not None:
        raise errors[0]


class Several:
    """Find or make artefacts, some of them at once.

    lock: flock or lease. config: recorded where an artefact has no config of its own.
    """

    def __init__(
        self, wanted: Sequence[Wanted], missing: Sequence[Missing], lock: str, config: Mapping[str, Any] | None
    ) -> None:
        self.wanted, self.lock, self.config = wanted, lock, config
        self.places = [one.folder for one in missing]
        # All processes claim in one order, so that one of them gets all that is free.
        self.todo = {one.folder: one for one in sorted(missing, key=lambda one: one.folder)}
        self.found: dict[Path, Artefact] = {}
        self.errors: dict[int, UserError] = {}
        self.open: dict[int, tuple[Missing, Claim, ExitStack]] = {}
        self.singly = False  # from when artefacts are put off: then other processes get the rest

    def made(self, build: BuildMany) -> list[Artefact]:
        """See `Store.produce_many`."""
        while self.todo:
            for one in list(self.todo.values()):
                self._find(one)
            if self.todo and not self._build(build):
                with locked(next(iter(self.todo)), self.lock):
                    pass  # it is free now: look again
        if self.errors:
            raise self.errors[min(self.errors)]
        return [self.found[folder] for folder in self.places]

    def _find(self, one: Missing) -> None:
        wanted = self.wanted[one.number]
        with explained(one.folder):
            record = read_done(one.folder)
            if record is None:
                make_folder(one.folder.parent)
                return
            check_record(one.folder, wanted.stage, one.key, wanted.inputs, record)
        self.found[one.folder] = Artefact(one.folder, one.key, built=False)
        del self.todo[one.folder]

    def _build(self, build: BuildMany) -> bool:
        """Build all folders whose locks are free, or one of them if they are built singly; return if there were any."""
        before = len(self.todo)
        with ExitStack() as held:
            for one in self.todo.values():
                self._claim(one, held.enter_context(ExitStack()))
                if self.singly and self.open:
                    break
            claimed = sorted((one for one, _, _ in self.open.values()), key=lambda one: one.number)
            if not claimed:
                return False
            self.started = time.monotonic()
            with explained(claimed[0].folder):
                build(claimed, self._ended, self._later)
            if self.open or len(self.todo) == before:
                left = len(self.open) or len(claimed)
                raise RuntimeError(f"{left} of {len(claimed)} folders were neither built nor given up")
            return True

    def _claim(self, one: Missing, held: ExitStack) -> None:
        claim = held.enter_context(locked_if_free(one.folder, self.lock))
        if claim is None or read_done(one.folder) is not None:  # in use, or finished a moment ago
            held.close()
            return
        with explained(one.folder):
            begin(one.folder, self.wanted[one.number].stage, self.wanted[one.number].inputs)
        self.open[one.number] = (one, claim, held)

    def _later(self, number: int) -> None:
        """Release the lock of a folder that nothing was written to."""
        _, _, held = self.open.pop(number)
        held.close()
        self.singly = True

    def _ended(self, number: int, error: UserError | None) -> None:
        """Publish a folder, or note why it stays unfinished; release its lock."""
        one, claim, held = self.open.pop(number)
        del self.todo[one.folder]
        with held:
            if error is not None:
                self.errors[number] = error
                return
            config = self.wanted[number].config or self.config
            try:
                with explained(one.folder):
                    publish(one.folder, one.key, self.started, claim.check, config)
            except UserError as refused:  # such as a lost lease: the others may still be published
                self.errors[number] = refused
            else:
                self.found[one.folder] = Artefact(one.folder, one.key, built=True)
