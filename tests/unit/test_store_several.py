"""Several artefacts are built together, each once, whoever else asks for some of them."""

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from speechforget.errors import Diverged, UserError
from speechforget.store import Ended, Later, Missing, OneByOne, Store, Wanted
from speechforget.store.locks import locked

forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["pytest", "speechforget.store.trial"])


def wanted(*numbers: int) -> list[Wanted]:
    return [Wanted("stage", f"name{number}", {"seed": number}, {"seed": number}) for number in numbers]


def fill(missing: Sequence[Missing], ended: Ended, _: Later) -> None:
    for one in missing:
        (one.folder / "value").write_text(one.key)
        ended(one.number, None)


def refuse(missing: Sequence[Missing], *_: object) -> None:
    pytest.fail(f"built again: {missing}")


def test_missing_ones_are_built_in_one_call_and_found_later(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []

    def build(missing: Sequence[Missing], ended: Ended, later: Later) -> None:
        calls.append([one.number for one in missing])
        fill(missing, ended, later)

    store.produce_many(wanted(1), build)
    made = store.produce_many(wanted(2, 1, 0, 2), build)
    assert calls == [[0], [2, 3]]  # in the order in which they were asked for
    assert [artefact.built for artefact in made] == [True, False, True, True]
    assert [artefact.name for artefact in made] == ["name2", "name1", "name0", "name2"]
    assert [(artefact.folder / "value").read_text() for artefact in made] == [artefact.key for artefact in made]
    assert json.loads((made[0].folder / "about.json").read_text())["config"] == {"seed": 2}
    again = store.produce_many(wanted(0, 1, 2), refuse)
    assert [artefact.key for artefact in again] == [made[2].key, made[1].key, made[0].key]
    assert store.produce("stage", "name1", {"seed": 1}, lambda *_: None).folder == made[1].folder
    assert not list(tmp_path.rglob("*.lock"))


def test_one_that_fails_leaves_the_others_finished(tmp_path: Path) -> None:
    def build(missing: Sequence[Missing], ended: Ended, later: Later) -> None:
        for one in missing:
            ended(one.number, Diverged("It diverged.") if one.number == 1 else None)

    store = Store(tmp_path)
    with pytest.raises(Diverged, match="It diverged"):
        store.produce_many(wanted(0, 1, 2), build)
    assert len(list(tmp_path.rglob("DONE"))) == 2
    assert [artefact.built for artefact in store.produce_many(wanted(0, 1, 2), fill)] == [False, True, False]


def test_a_folder_that_is_neither_built_nor_given_up_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="1 of 2"):
        Store(tmp_path).produce_many(wanted(0, 1), lambda missing, *calls: fill(missing[:1], *calls))
    assert len(list(tmp_path.rglob("DONE"))) == 1 and not list(tmp_path.rglob("*.lock"))


def test_a_damaged_one_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.produce_many(wanted(1), fill)[0].folder / "value").unlink()
    with pytest.raises(UserError, match="value"):
        store.produce_many(wanted(0, 1), refuse)


def test_each_is_published_and_unlocked_as_soon_as_it_is_ready(tmp_path: Path) -> None:
    def build(missing: Sequence[Missing], ended: Ended, later: Later) -> None:
        for place, one in enumerate(missing):
            assert len(list(tmp_path.rglob("DONE"))) == place
            assert len(list(tmp_path.rglob("*.lock"))) == len(missing) - place
            ended(one.number, None)

    Store(tmp_path).produce_many(wanted(0, 1, 2), build)


class Single(OneByOne):
    """A store that only builds single artefacts."""

    def __init__(self, root: Path) -> None:
        self.produce = Store(root).produce  # type: ignore[method-assign]


def test_a_store_that_builds_single_artefacts_builds_all_of_them(tmp_path: Path) -> None:
    assert [artefact.built for artefact in Single(tmp_path).produce_many(wanted(0, 1), fill)] == [True, True]
    with pytest.raises(Diverged):
        Single(tmp_path).produce_many(wanted(2), lambda missing, ended, _: ended(missing[0].number, Diverged("no")))


def test_what_is_put_off_is_free_for_others_and_taken_one_by_one(tmp_path: Path) -> None:
    calls, at_once = [], []

    def build(missing: Sequence[Missing], ended: Ended, later: Later) -> None:
        calls.append([one.number for one in missing])
        for one in missing[1:]:
            later(one.number)
        at_once.append(len(list(tmp_path.rglob("*.lock"))))
        if len(calls) == 1:  # meanwhile another process takes one of them
            Store(tmp_path).produce_many(wanted(2), fill)
        fill(missing[:1], ended, later)

    made = Store(tmp_path).produce_many(wanted(0, 1, 2, 3), build)
    assert calls[0] == [0, 1, 2, 3] and sorted(calls[1:]) == [[1], [3]] and at_once == [1, 1, 1]
    assert [artefact.built for artefact in made] == [True, True, False, True]
    with pytest.raises(RuntimeError, match="1 of 1"):  # instead of asking for ever
        Store(tmp_path).produce_many(wanted(9), lambda missing, _, later: later(missing[0].number))


def take(root: str, lock: str, numbers: Sequence[int], pause: float, most: int = 9) -> None:
    """Build what is free, slowly, and write a line for each; exit at once if `pause` is negative.

    most: at once; the rest is put off.
    """

    def build(missing: Sequence[Missing], ended: Ended, later: Later) -> None:
        for one in missing[most:]:
            later(one.number)
        for one in missing[:most]:
            with (Path(root) / "log").open("a") as lines:
                lines.write(f"{one.folder.name} {os.getpid()}\n")
            if pause < 0:
                os._exit(1)
            time.sleep(pause)
            ended(one.number, None)

    Store(Path(root), lock).produce_many(wanted(*numbers), build)


@pytest.mark.parametrize(("lock", "most"), [("flock", 9), ("lease", 9), ("flock", 1), ("lease", 1)])
def test_two_processes_that_want_overlapping_sets_build_each_once(lock: str, most: int, tmp_path: Path) -> None:
    sets = ([0, 1, 2, 3], [2, 3, 4, 5]) if most > 1 else (range(6), range(6))
    processes = [forkserver.Process(target=take, args=(str(tmp_path), lock, numbers, 0.1, most)) for numbers in sets]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    built, builders = zip(*map(str.split, (tmp_path / "log").read_text().splitlines()), strict=True)
    assert most > 1 or len(set(builders)) == 2  # nobody waits while there is something to do
    assert len(built) == len(set(built)) == 6 == len(list(tmp_path.rglob("DONE")))
    assert not list(tmp_path.rglob("*.lock"))


def test_what_a_dead_process_left_is_built_here(tmp_path: Path) -> None:
    process = forkserver.Process(target=take, args=(str(tmp_path), "flock", [0, 1, 2], -1.0))
    process.start()
    process.join(60)
    assert process.exitcode == 1 and not list(tmp_path.rglob("DONE"))
    assert [artefact.built for artefact in Store(tmp_path).produce_many(wanted(1, 2), fill)] == [True, True]


def test_what_another_process_builds_is_waited_for_without_a_lock(tmp_path: Path) -> None:
    process = forkserver.Process(target=take, args=(str(tmp_path), "flock", [0], 1.0))
    process.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.01)
    free = []

    def build(missing: Sequence[Missing], ended: Ended, later: Later) -> None:
        fill(missing, ended, later)
        for one in missing:
            with locked(one.folder):
                free.append(one.number)

    made = Store(tmp_path).produce_many(wanted(0, 1), build)
    process.join(60)
    assert free == [1] and [artefact.built for artefact in made] == [False, True]
