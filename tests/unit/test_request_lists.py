"""Lists of ids as requests: saved, read, completed by copies, matched, and refused with a reason."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.request_tables import TABLE, check, corpus, task

from speechforget.data.requests.select import save, select
from speechforget.errors import UserError


def test_saved_lists_are_readable_and_make_the_same_request(tmp_path: Path) -> None:
    request = select(TABLE, task(percent=8))
    save(request, TABLE, tmp_path)
    forget, retain, nonmembers = (
        (tmp_path / f"{name}.txt").read_text().splitlines() for name in ("forget", "retain", "nonmembers")
    )
    assert forget == TABLE["id"].iloc[request.forget].tolist()
    assert set(forget) | set(retain) == set(TABLE.loc[TABLE["subset"] == "train", "id"])
    assert nonmembers == TABLE["id"].iloc[request.nonmembers].tolist()
    again = select(TABLE, task(by="ids", ids=str(tmp_path / "forget.txt")))
    assert np.array_equal(again.forget, request.forget)
    assert np.array_equal(again.nonmembers, request.nonmembers)


def test_ids_may_come_from_windows_editors(tmp_path: Path) -> None:
    ids = TABLE.loc[TABLE["subset"] == "train", "id"].tolist()[:3]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*ids, ids[0], ""]).encode())
    assert TABLE["id"].iloc[select(TABLE, task(by="ids", ids=tmp_path / "list.txt")).forget].tolist() == ids


def listing(folder: Path, ids: Any) -> dict[str, Any]:
    (folder / "ids.txt").write_text("".join(f"{identity}\n" for identity in ids))
    return task(by="ids", ids=str(folder / "ids.txt"))


def test_a_persons_whole_list_is_forgotten_or_withdrawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Listed training utterances are forgotten, others withdrawn, with copies; the lists make the request again."""
    table = TABLE.copy()
    mine = table["speaker"] == "s2"
    other = table.index[(table["subset"] == "holdout") & ~mine][0]
    held = table.index[(table["subset"] == "holdout") & mine]
    table.loc[other, "unit"] = table.loc[held[0], "unit"]
    with caplog.at_level(logging.WARNING):
        request = select(table, listing(tmp_path, table["id"][mine]))
    check(request, table)
    assert set(request.forget) == set(table.index[mine & (table["subset"] == "train")])
    assert set(request.withdrawn) == {*table.index[mine & (table["subset"] != "train")], other}
    assert not set(request.nonmembers) & set(request.withdrawn)
    counts = table["subset"].iloc[request.withdrawn].value_counts()
    assert (
        f"{len(request.withdrawn)} were not ({counts['holdout']} holdout, 5 test, {counts['validation']} validation)"
        in caplog.text
    )
    assert (
        len(request.nonmembers) == 0
        and "There are no non-members: the holdout matches, by speaker, only 0 of" in request.matched
    )
    save(request, table, tmp_path)
    lists = [(tmp_path / f"{name}.txt").read_text().splitlines() for name in ("forget", "withdrawn")]
    assert lists[1] == table["id"].iloc[request.withdrawn].tolist()
    again = select(table, listing(tmp_path, [*lists[0], "a copy", *lists[1]]), left_out={"a copy": ""})
    assert "1 utterances are in no subset" in caplog.text
    assert np.array_equal(again.forget, request.forget) and np.array_equal(again.withdrawn, request.withdrawn)


def test_copies_of_what_the_split_left_out_are_withdrawn_with_it(tmp_path: Path) -> None:
    """The split drops a training recording whose copy tests: who lists that one means the other, too."""
    table = TABLE.assign(sha1=TABLE["id"])
    kept = int(table.index[table["subset"] == "test"][0])
    listed = [table["id"][table["subset"] == "train"].iloc[0], "dropped", "broken"]
    request = select(table, listing(tmp_path, listed), left_out={"dropped": table["id"][kept], "broken": ""})
    assert request.withdrawn.tolist() == [kept] and len(request.forget) == 1


def test_a_list_of_a_corpus_without_speakers_says_what_is_not_known(tmp_path: Path) -> None:
    nameless = TABLE.drop(columns="speaker")
    for table, told in ((TABLE, False), (nameless, True), (nameless.assign(speaker=""), True)):
        assert (
            "does not say who speaks"
            in select(table, listing(tmp_path, table["id"][table["subset"] == "train"][:9])).matched
        ) is told


def test_a_list_is_matched_by_what_it_is_concentrated_in(tmp_path: Path) -> None:
    table = corpus(words=6, speakers=10, takes=20)
    table["accent"] = table["speaker"].map(lambda speaker: "north" if speaker < "s5" else "south")
    trained = table["subset"] == "train"
    cases = {
        ("speaker",): trained & table["speaker"].isin(["s2", "s7"]),
        ("accent",): trained & (table["accent"] == "north"),
        ("label", "speaker"): trained & (table["speaker"] == "s2") & table["label"].isin(["w1", "w4"]),
        ("label",): pd.Series(np.isin(np.arange(len(table)), select(table, task(percent=10)).forget)),
    }
    for columns, picked in cases.items():
        request = select(table, listing(tmp_path, table["id"][picked]))
        check(request, table)
        assert request.matched.startswith(f"Non-members: {len(request.nonmembers)} holdout recordings, matched by"), (
            request.matched
        )
        assert set(request.matched.split("matched by ")[1].rstrip(".").split(",")[0].split(" and ")) == set(columns)
        for column in (*columns, "label"):
            assert set(table[column].iloc[request.nonmembers]) == set(table[column].iloc[request.forget])
        assert len(request.nonmembers) >= 0.15 * len(request.forget)


@pytest.mark.parametrize("word_effect", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
def test_fair_scores_are_flagged_as_rarely_as_they_should_be(tmp_path: Path, word_effect: float) -> None:
    """A list of one speaker's recordings, with easy and hard speakers, and losses of models trained on none of them."""
    from speechforget.data.requests.nonmembers import matching_rows
    from speechforget.evaluation.membership import area_under_curve

    table = corpus(words=10, speakers=20, takes=18, holdout=0.25)
    draw = np.random.default_rng(0)
    effects = {column: draw.normal(size=(300, 20)) for column in ("speaker", "label")}
    flagged: dict[str, list[bool]] = {"speaker": [], "label": []}
    chosen: dict[str, tuple[Any, ...]] = {}
    for model in range(300):
        speaker = f"s{model % 20}"
        loss = draw.normal(size=len(table)) + effects["speaker"][model][table["speaker"].str[1:].astype(int)]
        loss += word_effect * effects["label"][model][table["label"].str[1:].astype(int)]
        if model < 20:
            request = select(
                table, listing(tmp_path, table["id"][(table["subset"] == "train") & (table["speaker"] == speaker)])
            )
            by_label = matching_rows(table, request.forget, 0, ["label"], request.withdrawn)[0]
            chosen[speaker] = (request.forget, request.nonmembers, by_label)
        forget, *sides = chosen[speaker]
        for name, nonmembers in zip(("speaker", "label"), sides, strict=True):
            found = area_under_curve(loss[forget], loss[nonmembers])
            flagged[name].append(not found.low <= 0.5 <= found.high)
    assert np.mean(flagged["speaker"]) < 0.03  # of a 99 % interval
    assert np.mean(flagged["label"]) > 0.4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"w0/s1_99\n", "1 unknown utterance ids"),
        (b"w0/s1_0\n", r"none of its 1 utterances is in training \(1 test\)"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_lists_without_sense_say_why(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        select(TABLE, task(by="ids", ids=tmp_path / "ids.txt"))


def test_a_list_that_empties_a_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(
        "\n".join(TABLE.loc[(TABLE["subset"] == "train") & (TABLE["label"] == "w1"), "id"])
    )
    with pytest.raises(UserError, match="leaves no training utterance of w1"):
        select(TABLE, task(by="ids", ids=tmp_path / "ids.txt"))
