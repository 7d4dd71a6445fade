"""Listed recordings that are missing, unlisted ones, and ones listed twice."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_corpora import MakeCorpus, index

from speechforget.data.corpora.completeness import check_counts, check_lines, check_listed
from speechforget.errors import UserError


def doubled(name: str, root: Path) -> tuple[Path, str, str]:
    """A list of the corpus, one of its lines, and a line that contradicts it."""
    if name == "voxceleb1":
        path = root / "iden_split.txt"
        line = path.read_text().splitlines()[0]
        return path, line, f"3{line[1:]}"
    path = root / "fluent_speech_commands_dataset" / "data" / "train_data.csv"
    line = path.read_text().splitlines()[1]
    return path, line, line.replace("change language", "activate")


@pytest.mark.parametrize("name", ["voxceleb1", "fluent_speech_commands"])
def test_doubled_lines_count_once_and_contradictory_lines_are_refused(
    name: str, make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_corpus(name)
    count = len(index(name, root).table)
    path, line, other = doubled(name, root)
    good = path.read_text().rstrip("\n")
    path.write_text(f"{good}\n{line}\n")
    assert len(index(name, root).table) == count
    assert "1 recordings more than once" in caplog.text
    path.write_text(f"{good}\n{other}\n")
    with pytest.raises(
        UserError, match=r"contradict each other about 1 file: .* is listed with (subset|action) '.*' and with"
    ):
        index(name, root, complete=False)


paths = st.lists(st.sampled_from([f"{speaker}/{number}.wav" for speaker in "abc" for number in range(4)]), unique=True)


@given(listed=paths, found=paths)
def test_what_is_missing_is_what_is_listed_and_not_there(listed: list[str], found: list[str]) -> None:
    table = pd.DataFrame({"path": listed, "speaker": [path[0] for path in listed]}, dtype=str)
    missing = set(listed) - set(found)
    if listed and len(missing) == len(listed):
        with pytest.raises(UserError, match="none of the"):
            check_listed("corpus", table, found, complete=False, fix="unpack it")
        return
    assert set(check_listed("corpus", table, found, complete=False, fix="unpack it")["path"]) == set(listed) & set(
        found
    )
    if missing:
        with pytest.raises(UserError, match=f"{len(missing)} of {len(listed)} listed recordings are missing"):
            check_listed("corpus", table, found, complete=True, fix="unpack it")
    counts = {speaker: sum(path[0] == speaker for path in found) for speaker in "abc"}
    if len(found) < 12:
        with pytest.raises(
            UserError, match=f"{12 - len(found)} of 12 recordings are missing: (speaker . has (none|. of 4)(, )?)+"
        ):
            check_counts("corpus", counts, dict.fromkeys("abc", 4), 12, complete=True, fix="unpack it")


def test_many_missing_recordings_are_summed_up() -> None:
    table = pd.DataFrame(
        [
            {"path": f"{speaker:02}/{number}.wav", "speaker": f"{speaker:02}"}
            for speaker in range(30)
            for number in range(60)
        ]
    )
    found = table["path"][~table["speaker"].isin([f"{speaker:02}" for speaker in range(10, 20)])].iloc[3:]
    with pytest.raises(UserError) as caught:
        check_listed("corpus", table, list(found), complete=True, fix="unpack it again")
    assert str(caught.value) == (
        "corpus: 603 of 1,800 listed recordings are missing (00/0.wav, 00/1.wav, 00/2.wav, ...): "
        "speaker 10 has none, speaker 11 has none, speaker 12 has none, and 8 more lack some. "
        "To fix this: unpack it again, or set dataset.corpus.complete=false to go on without them."
    )


def test_more_recordings_than_published_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    check_counts("corpus", {"a": 5}, {"a": 4}, 4, complete=True, fix="unpack it")
    assert "5 recordings exist, but 4 are published" in caplog.text


def test_lines_that_say_the_same_are_kept_once() -> None:
    lines = pd.DataFrame({"path": ["b", "a", "b"], "subset": ["train", "test", "train"]})
    assert check_lines("corpus", lines, "the lists")["path"].tolist() == ["b", "a"]
