"""A model of ours brings its past requests along: they stay out of training, validation, holdout and scores."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.user_checkpoints import only

from speechforget import pipeline
from speechforget.config.evaluation import Training
from speechforget.config.validate import check
from speechforget.data.requests.past import FORGOTTEN
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.stages.build import requested
from speechforget.stages.score_files import read_scores
from speechforget.stages.sources import rows_of
from speechforget.store import Store

Configure = Callable[..., dict[str, Any]]
FIRST = ["task=sample", "task.by=speaker", "task.values=[speaker1]", "method=gradient_ascent"]
SECOND = ["task=sample", "task.by=speaker", "task.values=[speaker2]", "method=finetune"]


@pytest.fixture(scope="module")
def after_a(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that forgot the first speaker."""
    output = tmp_path_factory.mktemp("after_a")
    pipeline.run(configure(f"output={output}", *FIRST))
    return output


@pytest.fixture(scope="module")
def after_b(configure: Configure, after_a: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same output after a run that continued the result with the second speaker."""
    output = Path(shutil.copytree(after_a, tmp_path_factory.mktemp("after_b") / "output"))
    pipeline.run(configure(f"output={output}", f"original.result={result_folder(output)}", *SECOND))
    return output


def result_folder(output: Path, words: str = "speaker1") -> Path:
    return only([path for path in output.glob(f"result/*{words}*") if path.is_dir()])


def continued(configure: Configure, output: Path, *overrides: str) -> Pipeline:
    config = configure(f"output={output}", *SECOND, *overrides)
    check(config)
    return Pipeline(config, Store(output))


def test_what_was_forgotten_is_not_taught_again(configure: Configure, after_a: Path, after_b: Path) -> None:
    """Fine-tuning on retain must not lower the loss on A, which was in the retain set of B once."""
    run = continued(configure, after_b, f"original.result={result_folder(after_b)}")
    first = np.flatnonzero((run.data.table["speaker"] == "speaker1") & (run.data.table["subset"] == "train"))
    rows = rows_of(run.data, run.request)
    assert set(run.request.past.forget) == set(first)
    for name in ("retain", "train", "forget", "validation", "validation_request"):
        assert not set(rows[name]) & set(first), name

    def loss(output: Path, model: str) -> float:
        scores = only(list(output.glob(f"scores/{model}*[0-9a-f]")))
        return float(read_scores(scores)["loss"][first].mean())

    before, after = loss(after_a, "gradient_ascent"), loss(after_b, "finetune")
    taught = Path(shutil.copytree(after_a, after_b.parent / "taught"))
    start = f"original.result={result_folder(taught)}"
    pipeline.run(configure(f"output={taught}", start, "task.after=[]", *SECOND))
    again = loss(taught, "finetune")
    assert again < after and again < before


def test_the_result_says_what_stays_forgotten(after_b: Path) -> None:
    result = json.loads((result_folder(after_b, "speaker2") / "result.json").read_text())
    (earlier,) = result["request"]["earlier"]
    assert earlier["name"] == "sample-speaker-speaker1" and earlier["forget"] > 0
    assert result["request"]["keep_forget"] is False
    assert any("1 earlier request stays forgotten" in note for note in result["notes"])
    listed = (result_folder(after_b, "speaker2") / "retain.txt").read_text()
    assert "speaker1_" not in listed and "speaker2_" not in listed


def test_the_oracle_is_trained_without_both_and_any_order_shares_it(
    configure: Configure, after_b: Path, tmp_path: Path
) -> None:
    union = continued(configure, after_b, "task.values=[speaker1,speaker2]", "method=scrub")
    run = continued(configure, after_b, f"original.result={result_folder(after_b)}")
    assert run.train("oracle").key == union.train("oracle").key
    assert not run.train("oracle").built


@pytest.mark.parametrize("stage", ["unlearned", "oracle"])
def test_a_checkpoint_of_ours_brings_its_past_along(
    stage: str, configure: Configure, after_a: Path, tmp_path: Path
) -> None:
    folder = only([path for path in after_a.glob(f"{stage}/*") if path.is_dir()])
    elsewhere = Path(shutil.copytree(folder, tmp_path / "mine"))
    for place in (folder, elsewhere):
        run = continued(configure, tmp_path / "output", f"original.checkpoint={place}")
        assert [each.name for each in run.request.past.requests] == ["sample-speaker-speaker1"]
    (elsewhere / FORGOTTEN).unlink()
    (elsewhere / "inputs.json").unlink()
    with pytest.raises(UserError, match="would be taught again"):
        continued(configure, tmp_path / "output", f"original.checkpoint={elsewhere}")
    listed = tmp_path / "gone.txt"
    listed.write_text((result_folder(after_a) / "forget.txt").read_text())
    named = continued(configure, tmp_path / "output", f"original.checkpoint={elsewhere}", f"task.after=[{listed}]")
    assert np.array_equal(named.request.past.forget, run.request.past.forget)


def test_a_third_request_knows_both(configure: Configure, after_b: Path) -> None:
    run = continued(
        configure, after_b, f"original.result={result_folder(after_b, 'speaker2')}", "task.values=[speaker3]"
    )
    assert [each.name for each in run.request.past.requests] == [
        "sample-speaker-speaker1",
        "sample-speaker-speaker2-after1",
    ]


def test_keep_forget_gives_the_method_the_earlier_recordings(configure: Configure, after_a: Path) -> None:
    start = f"original.result={result_folder(after_a)}"
    kept, not_kept = (continued(configure, after_a, start, *more) for more in (["task.keep_forget=true"], []))
    past = set(kept.request.past.forget)
    assert past <= set(kept.request.of_method.forget) and not past & set(not_kept.request.of_method.forget)
    assert np.array_equal(kept.request.forget, not_kept.request.forget)
    assert kept.forgotten_ids == not_kept.forgotten_ids
    assert kept.request.to_json(kept.data.table)["keep_forget"] is True
    # A worker process selects the same by itself.
    for stage, run in itertools.product(("oracle", "unlearned"), (kept, not_kept)):
        training = Training(stage, 0)
        mine, theirs = run.request_of(training), requested(training, run.data, run.config)
        assert mine is not None and theirs is not None
        assert mine.digest(run.data.table) == theirs.digest(run.data.table)


def test_models_of_older_code_are_known_by_their_results(configure: Configure, after_a: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(after_a, tmp_path / "older"))
    folder = only([path for path in output.glob("unlearned/*") if path.is_dir()])
    (folder / FORGOTTEN).unlink()
    run = continued(configure, output, f"original.checkpoint={folder}")
    assert [each.name for each in run.request.past.requests] == ["sample-speaker-speaker1"]
    shutil.rmtree(output / "result")
    with pytest.raises(UserError, match="would be taught again"):
        continued(configure, output, f"original.checkpoint={folder}")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["task.values=[speaker1]"], "earlier request has forgotten already, first 'speaker1'"),
        (["evaluation.pairs=4", "evaluation.oracles=4"], "not defined for a request after others"),
        (["train.epochs=5"], "train.epochs=4"),
        (["dataset.holdout=0.1"], "in another subset"),
        (["original.checkpoint=x"], "start from one of them"),
    ],
)
def test_mistakes_are_one_sentence(
    overrides: list[str], sentence: str, configure: Configure, after_a: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        continued(configure, after_a, f"original.result={result_folder(after_a)}", *overrides).train("original")


def test_a_folder_that_is_no_result_is_refused(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no result"):
        continued(configure, tmp_path, f"original.result={tmp_path}")


def test_what_was_forgotten_may_be_gone_from_the_corpus(
    configure: Configure, after_a: Path, tones: Path, tmp_path: Path
) -> None:
    """The operator deletes the first speaker, and continues next month."""
    corpus = Path(shutil.copytree(tones, tmp_path / "corpus"))
    start = [f"original.result={result_folder(after_a)}", f"dataset.root={corpus}", f"cache={tmp_path / 'cache'}"]
    for path in corpus.glob("*/speaker1_*"):
        path.unlink()
    # Holdout and validation recordings of the speaker were not trained on: they may go, too.
    assert continued(configure, after_a, *start).train("original").built
    next(corpus.glob("*/speaker3_*")).unlink()
    with pytest.raises(UserError, match=r"lacks|subset"):
        for path in corpus.glob("*/speaker3_*"):
            path.unlink()
        continued(configure, after_a, *start).train("original")
