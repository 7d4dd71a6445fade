"""Cached importances: made once for an original, found by the next request, and managed like other artefacts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from speechforget.cli.plan import plan
from speechforget.cli.store import main
from speechforget.distributed import group
from speechforget.errors import Diverged, UserError
from speechforget.methods.base.method import Context
from speechforget.pipeline import Pipeline
from speechforget.stages import importance_cache
from speechforget.store import Artefact, Store

SHORT = ["train.epochs=2", "method.batch_size=8"]

Unlearn = Callable[..., tuple[Artefact, list[str]]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the original is trained once."""
    return tmp_path_factory.mktemp("keeping") / "trained"


@pytest.fixture
def unlearn(configure, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unlearn:
    """unlearn(overrides ...) -> the unlearned model and what was read for it, in an output folder with an original."""
    read: list[str] = []
    total = Context.total

    def noted(self: Context, name: str, *arguments: Any) -> torch.Tensor:
        read.append(name)
        return total(self, name, *arguments)

    monkeypatch.setattr(Context, "total", noted)
    trained = Pipeline(configure(f"output={place}", *SHORT, "method=ssd"), Store(place))
    trained.train("original")
    shutil.copytree(place, tmp_path / "output")

    def run(*overrides: str) -> tuple[Artefact, list[str]]:
        read.clear()
        pipeline = Pipeline(
            configure(f"output={tmp_path / 'output'}", "method=ssd", *SHORT, *overrides), Store(tmp_path / "output")
        )
        return pipeline.unlearn(pipeline.train("original")), list(read)

    return run


@pytest.fixture(autouse=True, scope="module")
def closed() -> Iterator[None]:
    yield
    group.close_team()


def kept(tmp_path: Path) -> list[Path]:
    return sorted(path.parent for path in tmp_path.glob("output/importance/*/DONE"))


def test_the_second_request_reads_only_what_it_forgets(unlearn: Unlearn, tmp_path: Path) -> None:
    first, read = unlearn("task.classes=[word1]")
    assert read == ["train", "forget"] and len(kept(tmp_path)) == 1
    second, read = unlearn("task.classes=[word2]")
    assert read == ["forget"] and len(kept(tmp_path)) == 1
    costs = [artefact.cost for artefact in (first, second)]
    assert [cost["shared"]["reused"] for cost in costs] == [False, True]
    size = costs[0]["shared"]["forward_backward"]
    for cost in costs:  # found importances count as much as made ones
        assert cost["shared"] == {**costs[0]["shared"], "reused": cost["shared"]["reused"]}
        assert cost["forward_backward"] > size > 0 and cost["seconds"] > cost["shared"]["seconds"] > 0
    shutil.rmtree(tmp_path / "output" / "importance")
    shutil.rmtree(second.folder)
    again, read = unlearn("task.classes=[word2]")
    assert read == ["train", "forget"]
    assert again.cost["forward_backward"] == costs[1]["forward_backward"]


def test_what_is_found_gives_the_same_weights(unlearn: Unlearn, tmp_path: Path) -> None:
    asked = ["task.classes=[word2]", "method.alpha=1.5"]
    made, read = unlearn(*asked)
    assert "train" in read
    weights = load_file(made.folder / "weights.safetensors")
    shutil.rmtree(made.folder)
    found, read = unlearn(*asked)
    assert "train" not in read
    assert all(
        torch.equal(value, weights[name]) for name, value in load_file(found.folder / "weights.safetensors").items()
    )
    start = next((tmp_path / "output").glob("original/*/weights.safetensors"))
    assert any(not torch.equal(value, weights[name]) for name, value in load_file(start).items())


@pytest.mark.slow
def test_another_size_function_code_or_precision_is_another_artefact(
    unlearn: Unlearn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlearn()
    for number, changes in enumerate([["method.batch_size=7"], ["method.importance=sample"], ["method=lfssd"]]):
        _, read = unlearn(*changes)
        assert read == ["train", "forget"] and len(kept(tmp_path)) == number + 2
    _, read = unlearn("method.alpha=3")
    assert read == ["forget"]
    hashes = importance_cache.code_of
    monkeypatch.setattr(importance_cache, "code_of", lambda *targets: hashes(*targets)[::-1])
    _, read = unlearn("method.alpha=4")
    assert read == ["train", "forget"] and len(kept(tmp_path)) == 5
    names = {
        json.loads((folder / "inputs.json").read_text())["inputs"]["of"].rpartition(".")[2] for folder in kept(tmp_path)
    }
    assert names == {"squared_gradients", "squared_sample_gradients", "absolute_output_gradients"}


def test_importances_that_are_not_finite_are_not_kept(
    unlearn: Unlearn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = Context.total
    monkeypatch.setattr(
        Context, "total", lambda *arguments: total(*arguments).index_fill_(0, torch.tensor([0]), torch.inf)
    )
    with pytest.raises(Diverged, match="squared gradients of the original are not finite"):
        unlearn("task.classes=[word1]")
    assert not kept(tmp_path)


@pytest.mark.parametrize("harm", ["cut", "flipped", "lost"])
def test_a_damaged_file_is_one_sentence(harm: str, unlearn: Unlearn, tmp_path: Path) -> None:
    unlearn("task.classes=[word1]")
    (folder,) = kept(tmp_path)
    file = folder / importance_cache.FILE
    data = bytearray(file.read_bytes())
    if harm == "flipped":
        data[-1] ^= 1
        file.write_bytes(bytes(data))
    else:
        file.write_bytes(bytes(data[:-1])) if harm == "cut" else file.unlink()
    with pytest.raises(
        UserError, match=rf"importance.*is damaged, {importance_cache.FILE}.*remove the folder and run again"
    ):
        unlearn("task.classes=[word2]")
    shutil.rmtree(folder)
    assert unlearn("task.classes=[word2]")[1] == ["train", "forget"]


def test_a_computation_that_was_killed_is_taken_over(
    unlearn: Unlearn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(importance_cache, "save_file", die)
        with pytest.raises(KeyboardInterrupt):
            unlearn()
    (left,) = (tmp_path / "output" / "importance").iterdir()
    assert not kept(tmp_path) and (left / f"{importance_cache.FILE}.partial").exists()
    _, read = unlearn()
    assert read == ["train", "forget"] and kept(tmp_path) == [left]
    assert not (left / f"{importance_cache.FILE}.partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ssd", "lfssd", "assd", "fisher", "influence"])
def test_two_processes_agree_with_one(method: str, configure, place: Path, tmp_path: Path) -> None:
    """Both have the same original, so only the division of the work differs."""
    # few utterances: Fisher noise needs a gradient for each class
    asked = [f"method={method}", "train.epochs=2", "method.batch_size=7", "trainer.precision=64-true"]
    asked += {
        "ssd": ["method.alpha=1.5"],
        "lfssd": ["method.alpha=1.1", "method.dampening=1"],
        "influence": ["method.samples=20", "method.alpha=10"],
    }.get(method, [])
    first = Pipeline(configure(f"output={place}", *asked), Store(place))
    first.train("original")
    shutil.copytree(place / "original", tmp_path / "original")
    second = Pipeline(configure(f"output={tmp_path}", *asked, "trainer.devices=2"), Store(tmp_path))
    found = [pipeline.unlearn(pipeline.train("original")) for pipeline in (first, second)]
    one, two = (load_file(artefact.folder / "weights.safetensors") for artefact in found)
    start = load_file(first.train("original").folder / "weights.safetensors")
    assert all(float((one[name].double() - two[name].double()).abs().max()) < 1e-6 for name in one)
    assert any(not torch.equal(one[name], start[name].to(one[name].dtype)) for name in one)
    costs = [artefact.cost for artefact in found]
    assert costs[0]["forward_backward"] == costs[1]["forward_backward"] > 0
    if method in ("ssd", "lfssd"):
        name = found[0].folder.name
        assert name
        sums = [
            load_file(
                next(folder.glob(f"importance/{'squared' if method == 'ssd' else 'absolute'}*/{importance_cache.FILE}"))
            )["importance"]
            for folder in (place, tmp_path)
        ]
        assert float((sums[0].double() - sums[1].double()).abs().max()) <= 1e-9 * float(sums[0].abs().max())
        assert [cost["shared"]["forward_backward"] for cost in costs] == [costs[0]["shared"]["forward_backward"]] * 2


def test_a_plan_of_a_method_that_keeps_something_works(unlearn: Unlearn, configure, tmp_path: Path) -> None:
    overrides = [f"output={tmp_path / 'output'}", "method=ssd", *SHORT]
    before = plan(configure(*overrides))
    assert [planned.state for planned in before if planned.stage == "unlearned"] == ["missing"]
    unlearn()
    after = plan(configure(*overrides))
    assert [planned.state for planned in after if planned.stage == "unlearned"] == ["exists"]
    assert [planned.stage for planned in after] == [planned.stage for planned in before]


# ---- garbage collection


def fill(folder: Path, key: str) -> None:
    (folder / "weights").write_bytes(b"x" * 20)


def graph(root: Path, seed: int, result: bool = True) -> dict[str, Artefact]:
    """An original with its importance, and, if asked, a result made of the original."""
    store = Store(root)
    split = store.produce("split", "toy", {"corpus": "f" * 64}, fill)
    original = store.produce("original", f"toy-seed{seed}", {"split": split.key, "seed": seed}, fill)
    importance = store.produce(
        "importance", f"squares-toy-seed{seed}", {"original": original.key, "split": split.key}, fill
    )
    made = {"split": split, "original": original, "importance": importance}
    if result:
        made["unlearned"] = store.produce("unlearned", f"ssd-toy-seed{seed}", {"original": original.key}, fill)
        made["result"] = store.produce(
            "result", f"ssd-toy-seed{seed}", {"models": [made["original"].key, made["unlearned"].key]}, fill
        )
    return made


def test_an_importance_stays_as_long_as_its_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted, unwanted = graph(tmp_path, 0), graph(tmp_path, 1, result=False)
    assert main(["ls", "--output", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "split",
        "original",
        "original",
        "importance",
        "importance",
        "unlearned",
        "result",
    ]
    assert main(["gc", "--unreferenced", "--yes", "--output", str(tmp_path)]) == 0
    assert all(artefact.folder.exists() for artefact in wanted.values())
    assert not unwanted["original"].folder.exists() and not unwanted["importance"].folder.exists()
    shutil.rmtree(wanted["result"].folder)
    assert main(["gc", "--unreferenced", "--yes", "--output", str(tmp_path)]) == 0
    assert not list(tmp_path.glob("*/*-*"))


def test_an_importance_that_nobody_finishes_goes(tmp_path: Path) -> None:
    made = graph(tmp_path, 0)
    (made["importance"].folder / "DONE").unlink()
    assert main(["gc", "--yes", "--output", str(tmp_path)]) == 0
    assert not made["importance"].folder.exists() and made["original"].folder.exists()


def test_an_importance_can_be_looked_at_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = graph(tmp_path, 0)
    assert main(["show", made["importance"].key[:12], "--output", str(tmp_path)]) == 0
    above, _, below = capsys.readouterr().out.partition("used by")
    assert made["original"].folder.name in above and "nothing" in below
    assert main(["verify", "--output", str(tmp_path)]) == 0
    (made["importance"].folder / "weights").write_bytes(b"y" * 20)
    assert main(["verify", "--output", str(tmp_path)]) == 1
