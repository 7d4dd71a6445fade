"""Configurations are checked before anything is decoded: keys without effect, wrong values; any text can be printed."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.request_tables import TABLE, task

from speechforget.config.validate import check
from speechforget.data.requests.options import ALWAYS, DEFAULTS, KNOWN, counted, unused
from speechforget.data.requests.select import select
from speechforget.errors import NotApplicable, UserError
from speechforget.terminal import print_anywhere

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("kind", DEFAULTS)
def test_every_key_of_a_task_is_known_to_count_or_not(kind: str) -> None:
    saved = yaml.safe_load((CONF / "task" / f"{kind}.yaml").read_text())
    assert set(saved) - set(ALWAYS) <= KNOWN
    chosen = {name: value for name, value in saved.items() if name not in {*ALWAYS, "seed", "list"}}
    assert chosen.items() <= DEFAULTS[kind].items()


VALUES: dict[str, list[Any]] = {
    "classes": [None, ["w1"], ["w0", "w3"]],
    "number": [1, 2, 4],
    "percent": [None, 5, 20],
    "balanced": [True, False],
    "values": [None, ["s2"], ["s0", "s1"]],
    "share": [None, [10, 40]],
    "fewest": [None, 3],
    "ids": [None, "nowhere.txt"],
    "lists": [None, "nowhere"],
    "pattern": [None, "w1"],
    "seed": [0, 1],
}


@st.composite
def tasks(draw: st.DrawFn) -> dict[str, Any]:
    plain = task(draw(st.sampled_from(["class", "sample"])))
    changes = {name: draw(st.sampled_from(values)) for name, values in VALUES.items() if name in plain}
    by = {"by": draw(st.sampled_from(["random", "ids", "speaker"]))} if "by" in plain else {}
    return {**plain, **changes, **by}


def outcome(asked: dict[str, Any]) -> Any:
    """The request, or what is said instead of one."""
    try:
        request = select(TABLE, asked)
    except UserError as error:
        return str(error)
    return request.name, request.forgotten, request.forget.tobytes(), np.asarray(request.nonmembers).tobytes()


@settings(max_examples=60)
@given(tasks(), st.data())
def test_keys_that_do_not_count_change_no_request(asked: dict[str, Any], data: st.DataObject) -> None:
    changed = dict(asked)
    for name in sorted(VALUES.keys() & asked.keys() - counted(asked).keys()):
        other = {**changed, name: data.draw(st.sampled_from(VALUES[name]), name)}
        if (
            counted(other) == counted(asked) and name != "share"
        ):  # naming values is another way to ask; both at once `select` itself refuses
            changed = other
    assert outcome(changed) == outcome(asked)
    plain = {
        "task": {**task(asked["kind"]), **counted(asked), "list": {"name": "toy-word"}},
        "dataset": {"name": "toy", "label": "word"},
        "seed": 0,
    }
    assert not unused(plain)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (
            ["task=sample", "task.number=2"],
            "task.number has no effect with task.by=random: task.percent, task.balanced and task.seed do. Leave it",
        ),
        (
            ["task=sample", "task.by=ids", "task.percent=3"],
            "task.percent has no effect with task.by=ids: task.ids and task.seed do",
        ),
        (
            ["task=sample", "task.by=speaker", "task.balanced=false"],
            "task.by=speaker, a column,: task.number, task.fewest and task.seed do",
        ),
        (
            ["task=sample", "task.by=speaker", "task.values=[a]", "task.share=[1,2]"],
            "and task.values: task.values does. Leave it at null.",
        ),
        (["task=sample", "task.list.name=mine-word"], "task.list has no effect"),
        (
            ["task.classes=[word1]", "task.percent=5"],
            "task.percent has no effect with task=class and task.classes: task.classes does",
        ),
        (["task.classes=[word1]", "task.seed=2"], "task.seed has no effect"),
        (["task.percent=5", "task.number=2"], "task.number has no effect with task=class and task.percent"),
        (["method.curriculum_on=forget"], "method.curriculum_on has no effect without a curriculum"),
    ],
)
def test_a_key_that_does_not_count_is_refused_with_those_that_do(
    choices: list[str], words: str, configure: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(NotApplicable) as caught:
        check(configure(*choices))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "choices",
    [
        ["task.classes=[word1]", "task.seed=${seed}", "seed=3"],
        ["task=sample", "task.by=published", "task.lists=mine", "task.list.name=mine-word"],
        ["task=sample", "task.by=speaker", "task.number=2", "task.fewest=3"],
        ["method=finetune", "method.curriculum=superloss", "method.curriculum_on=forget"],
    ],
)
def test_keys_that_count_are_taken(choices: list[str], configure: Callable[..., dict[str, Any]]) -> None:
    check(configure(*choices))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("output", "", "output must be the name of a folder"),
        ("output", "  ", "output must be"),
        ("cache", "", "cache must be"),
        ("cache", None, "cache must be"),
        ("plan", "maybe", "plan must be true or false, not 'maybe'"),
        ("plan", None, "plan must be"),
        ("task.balanced", "maybe", "no task.balanced=maybe"),
        ("dataset.corpus.test", "some", "dataset.corpus.test must be a number from 0 to 1, not 'some'"),
        ("dataset.corpus.test", float("nan"), "dataset.corpus.test must be"),
    ],
)
def test_what_cannot_be_right_is_refused(
    key: str, value: object, words: str, configure: Callable[..., dict[str, Any]]
) -> None:
    config = copy.deepcopy(configure("task=sample"))
    *above, name = key.split(".")
    options = config
    for group in above:
        options = options[group]
    options[name] = value
    with pytest.raises(UserError, match=words):
        check(config)


WRONG = {
    "class": {
        "number": [0, 1.5, "two", None, True],
        "percent": [0, 100, "many", True, float("nan")],
        "classes": [[], [True], [None], [float("nan")], {"a": 1}],
        "seed": [-1, "one"],
    },
    "sample": {"percent": [0, 200, "many"], "seed": [0.5]},
    "speaker": {"number": [0], "values": [[]], "share": [3, [5, 2], ["a", "b"], [0, 5]], "fewest": [-1, "many"]},
    "pattern": {"pattern": [None, "(", 3]},
    "ids": {"ids": [None]},
    "published": {"balanced": [False]},
}


def test_a_wrong_value_of_a_task_is_refused_without_recordings(configure: Callable[..., dict[str, Any]]) -> None:
    for by, keys in WRONG.items():
        plain = configure(*(["task=class"] if by == "class" else ["task=sample"]))
        plain["task"] |= {"by": by} if by not in DEFAULTS else {}
        for key, values in keys.items():
            for value in values:
                with pytest.raises(UserError, match=rf"task\.{key}|Published requests are balanced"):
                    check({**plain, "task": {**plain["task"], key: value}})
                    pytest.fail(f"task.{key}={value} with {by} is accepted")


@pytest.mark.parametrize("asked", ["mode=onlin", "names=hash", "audio=maybe", "artifacts=file"])
def test_a_wrong_option_of_wandb_is_refused(asked: str, configure: Callable[..., dict[str, Any]]) -> None:
    check(configure("logger=wandb"))
    with pytest.raises(UserError, match=rf"logger\.{asked}"):
        check(configure("logger=wandb", f"logger.{asked}"))


@pytest.mark.parametrize("alone", [True, False])
def test_an_empty_output_leaves_nothing_behind(alone: bool, command, tmp_path: Path) -> None:
    done = command(*([] if alone else ["-m", "seed=0,1"]), "output=", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.strip() == "Error: output must be the name of a folder, not ''."
    assert not list(tmp_path.iterdir())


@given(st.text(st.characters(codec=None)), st.sampled_from(["ascii", "latin-1", "cp1252", "utf-8"]))
def test_everything_can_be_printed_anywhere(text: str, encoding: str) -> None:
    out = io.BytesIO()
    stream = io.TextIOWrapper(out, encoding=encoding, newline="")
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(io.StringIO()):
        print_anywhere()
        print(text + "±─", flush=True)
        sys.stdout.flush()
    shown = out.getvalue().decode(encoding)
    assert shown.endswith({"ascii": "+--\n", "latin-1": "±-\n", "cp1252": "±-\n", "utf-8": "±─\n"}[encoding])
    if text.isascii():
        assert shown.startswith(text)


def test_a_command_prints_in_any_encoding(command) -> None:
    done = command("--cfg", "job", "dataset.root='wört'", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and r"w\xf6rt" in done.stdout, done.stderr
