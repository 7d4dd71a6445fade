"""The record of real runs: it fits its schema, names nobody, and every change of a file or a number is found."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.results import tables_below

from speechforget.cli import diff, purge, record, store, verify
from speechforget.errors import UserError
from speechforget.evaluation import groups
from speechforget.page.write import Asked, make_page
from speechforget.pipeline import Pipeline
from speechforget.record import purge as purging
from speechforget.record.build import build
from speechforget.record.canonical import RECORD, canonical_bytes, embed, island, read_record
from speechforget.record.check import schema
from speechforget.record.command import command_of
from speechforget.record.folders import Outputs
from speechforget.record.shared import expanded
from speechforget.record.sign import make_keys, sign
from speechforget.record.write import write_record
from speechforget.stages import compare, joined
from speechforget.stages.recompute import recompute
from speechforget.store import Store
from speechforget.store.files import read_json

WHO = "speaker1"
FAILED = {"overrides": ["method=scrub", "output=/home/anna"], "outcome": "failed", "reason": "The disk is full."}
NEVER = {"overrides": ["method=unsir"], "outcome": "not applicable", "reason": "The method unsir is not defined."}


@pytest.fixture(scope="module", autouse=True)
def small_groups() -> Iterator[None]:
    """Compare groups of a few recordings, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "FEWEST_COMPARED", 2)
        yield


@pytest.fixture(scope="module")
def original_run(configure: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods for the request of a speaker, one for a class, and a sweep with jobs that gave no result."""
    folder = tmp_path_factory.mktemp("record") / "outputs"
    speaker = ["task=sample", "task.by=speaker", f"task.values=[{WHO}]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "comparison_plot", lambda *given: given[2].touch())  # it takes longer than all else
        for overrides in (["method=none", *speaker], ["method=finetune", "method.epochs=1", *speaker], ["method=none"]):
            named = "evaluation.groups=[speaker]"
            config = configure(f"output={folder}", "train.epochs=1", "train.warmup=0", named, *overrides)
            Pipeline(config, Store.of(config)).result()
    (folder / "sweeps" / "0123").mkdir(parents=True)
    for number, job in ((0, FAILED), (2, NEVER)):
        (folder / "sweeps" / "0123" / f"{number}.json").write_text(json.dumps(job))
    return folder


@pytest.fixture
def outputs(original_run: Path, tmp_path: Path) -> Path:
    """A copy with its record, to change."""
    folder = Path(shutil.copytree(original_run, tmp_path / "outputs"))
    write_record(folder, build(folder))
    return folder


def results(folder: Path, words: str = "") -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"result/*{words}*/DONE"))


def check(folder: Path, *words: str) -> int:
    return verify.main([str(folder / "record.json"), *words])


def test_a_record_fits_its_schema_and_says_what_was_made(outputs: Path) -> None:
    made = read_record(outputs / "record.json")
    jsonschema.Draft202012Validator(json.loads(schema().read_text())).validate(made)
    assert canonical_bytes(made) == (outputs / "record.json").read_bytes()
    told = {result["method"] + result["request"]["kind"]: result for result in expanded(made)}
    assert told.keys() == {"nonesample", "finetunesample", "noneclass"}
    one = told["finetunesample"]
    folder = next(path for path in results(outputs, "finetune"))
    weights = read_json(next(outputs.glob("unlearned/finetune*/DONE")))["files"]["weights.safetensors"]["sha256"]
    assert one["models"]["unlearned"]["weights"] == {"weights.safetensors": weights}
    assert one["key"] == read_json(folder / "DONE")["key"] and one["verdict"]
    assert one["request"]["counts"]["forget"] == len(one["request"]["hashes"]) > 0
    assert {child["stage"] for child in one["children"]} == {"unlearned"} and len(one["children"]) == 3
    assert [job["reason"] for job in made["failed"]] == [FAILED["reason"]]
    assert [job["reason"] for job in made["not_applicable"]] == [NEVER["reason"]]
    assert [job["reason"] for job in made["missing"]] == ["job 1 of this sweep has not ended"]
    paths = {f"{folder}/{name}" for folder, files in made["evidence"]["folders"].items() for name in files}
    assert all(any(path.endswith(name) for path in paths) for name in ("logits.npy", "forget.txt", "utterances.csv"))


def test_a_record_names_nobody(outputs: Path) -> None:
    text = (outputs / "record.json").read_text()
    ids = [line for path in outputs.glob("result/*/forget.txt") for line in path.read_text().splitlines()]
    assert ids and not any(identity in text for identity in ids)
    assert WHO not in text and "anna" not in text and str(outputs) not in text


def test_the_command_makes_the_same_config(outputs: Path, configure: Callable[..., dict[str, Any]]) -> None:
    """But for paths and names, which words in capitals stand for."""
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf
    from support.score_tables import EVALUATION

    config = configure(
        "task=sample", "task.by=speaker", f"task.values=[{WHO}]", "method=salun", "seed=3", "train.epochs=1"
    )
    words = shlex.split(str(command_of(config)))[1:]
    assert "task.values=VALUES" in words and "dataset.root=RECORDINGS" in words and "method=salun" in words
    assert OverridesParser.create().parse_overrides(words)
    real = {"VALUES": f"[{WHO}]", "RECORDINGS": config["dataset"]["root"]}
    chosen = [word if (name := word.split("=")[1]) not in real else word.replace(name, real[name]) for word in words]
    with initialize_config_dir(str(EVALUATION.parent), version_base="1.3"):
        again = OmegaConf.to_container(compose("config", overrides=chosen), resolve=True)
    assert {**again, "logger": config["logger"]} == config  # type: ignore[dict-item]


def test_every_number_is_reproduced_from_the_tables(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(outputs) == 0
    out = capsys.readouterr().out
    assert out.count(": reproduced, ") == 3 and "Nothing is wrong." in out and "Schema: fits." in out


def test_hashes_are_checked_without_torch(command, outputs: Path, tmp_path: Path) -> None:
    no_torch = Path(__file__).parents[1] / "support" / "no_torch"
    done = command("verify", str(outputs / "record.json"), "--hashes", env={"PYTHONPATH": str(no_torch)})
    assert done.returncode == 0, done.stderr
    assert "reproduced" not in done.stdout


def changed_byte(outputs: Path) -> None:
    path = next(outputs.glob("scores/*/logits.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def swapped_tables(outputs: Path) -> None:
    """With their manifests, so that each folder is whole."""
    one, other = (next(outputs.glob(f"scores/{method}-*sample*")) for method in ("none", "finetune"))
    for name in ("logits.npy", "loss.npy", "DONE"):
        first, second = (one / name).read_bytes(), (other / name).read_bytes()
        (one / name).write_bytes(second)
        (other / name).write_bytes(first)


def lost_file(outputs: Path) -> None:
    next(outputs.glob("scores/*/loss.npy")).unlink()


def changed_list(outputs: Path) -> None:
    made = read_record(outputs / "record.json")
    folder = next(iter(made["evidence"]["folders"].values()))
    folder.popitem()
    (outputs / "record.json").write_bytes(canonical_bytes(made))


def changed_number(outputs: Path) -> None:
    made = read_record(outputs / "record.json")
    next(iter(made["shared"]["numbers"].values()))["rows"][0][0] = 0.123
    (outputs / "record.json").write_bytes(canonical_bytes(made))


def not_in_the_schema(outputs: Path) -> None:
    made = read_record(outputs / "record.json")
    made["results"][0]["delivered"] = "certified"
    (outputs / "record.json").write_bytes(canonical_bytes(made))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_byte, "logits.npy changed since the record was made"),
        (swapped_tables, "logits.npy changed since the record was made"),
        (lost_file, "loss.npy is missing"),
        (changed_list, "the Merkle root does not fit"),
        (changed_number, "recorded 0.123"),
        (not_in_the_schema, "does not fit its schema at $.results[0].delivered"),
    ],
)
def test_a_change_is_found(
    outputs: Path, change: Callable[[Path], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(outputs)
    assert check(outputs) == 1
    assert words in capsys.readouterr().out


def test_a_number_that_the_tables_do_not_give_is_found(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where result.json, its manifest and the record agree on it: both values of the first are named."""
    folder = results(outputs, "finetune")[0]
    told, done = read_json(folder / "result.json"), read_json(folder / "DONE")
    right = told["comparison"]["unlearned"]["accuracy_retain"]["value"]
    told["comparison"]["unlearned"]["accuracy_retain"]["value"] = right / 2
    (folder / "result.json").write_text(json.dumps(told))
    done["files"].pop("result.json")
    (folder / "DONE").write_text(json.dumps(done))
    write_record(outputs, build(outputs))
    assert check(outputs) == 1
    out = capsys.readouterr().out
    assert told["comparison"]["unlearned"]["accuracy_gap_speaker_test"]["value"] is not None
    assert f"DIFFERS: accuracy_retain of unlearned (value): recorded {right / 2!r}, recomputed {right!r}" in out
    assert out.count(": reproduced, ") == 2


def test_a_page_vouches_for_its_text_and_a_signature_for_the_page(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    charts = canonical_bytes({"loss": [1, 2]})
    page = f"<h1>Nothing came back</h1>{island(RECORD, b'')}{island('charts', charts)}"
    path = outputs / "report.html"
    path.write_text(embed(page, build(outputs, {"charts": charts})), encoding="utf-8")
    make_keys(tmp_path / "key.pem")
    sign(path, tmp_path / "key.pem")
    words = [str(path), "--hashes", "--signer", str(tmp_path / "key.pub.pem")]
    assert verify.main(words) == 0
    assert "Attachments: 2 compared." in capsys.readouterr().out
    for old, new in (("Nothing came", "Everything came"), ('"loss":[1,2]', '"loss":[1,3]')):
        path.write_text(path.read_text().replace(old, new))
        make_keys(tmp_path / f"{old[0]}thief.pem")
        sign(path, tmp_path / f"{old[0]}thief.pem")  # signed again, by another key
        assert verify.main(words[:2]) == 1 and verify.main(words) == 1
    out = capsys.readouterr().out
    assert "the page around the record changed" in out and "the attachment 'charts' changed" in out
    assert "is signed by another key" in out
    path.with_suffix(".sig").unlink()
    assert verify.main(words) == 1 and "is not signed" in capsys.readouterr().out


def test_without_the_tables_only_hashes_are_checked(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(outputs / "scores")
    assert check(outputs) == 0
    out = capsys.readouterr().out
    assert out.count("only hashes and signature were checked, because the scores") == 3 and "Not here" in out
    assert "Nothing is wrong with what is here." in out
    assert check(outputs, "--folder", str(outputs / "missing")) == 1


def test_no_result_and_no_folder_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record.main(["make", str(tmp_path)]) == 1
    assert "There is no finished result" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_two_records_agree_or_every_difference_is_listed(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = outputs / "record.json", tmp_path / "after.json"
    made = read_record(before)
    shutil.copy(before, after)
    assert diff.main([str(before), str(after)]) == 0
    made["results"] = made["results"][1:]
    made["results"][0]["verdict"][0]["word"] = "over"
    made["shared"]["numbers"] = {
        name: {**table, "rows": [[0.5], *table["rows"][1:]]} for name, table in made["shared"]["numbers"].items()
    }
    after.write_bytes(canonical_bytes(made))
    assert diff.main([str(before), str(after), "--all"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("result" in line and line.rstrip().endswith("–") for line in lines[1:])
    assert any(line.rstrip().endswith("over") for line in lines) and any("of unlearned" in line for line in lines)


def test_a_person_is_told_which_recordings_are_in(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = (results(outputs, "finetune")[0] / "forget.txt").read_text().splitlines()
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\r\n\n")
    asked = ["find", str(outputs / "record.json"), "--salt", str(outputs / "record_salt"), "--ids"]
    assert record.main([*asked, str(tmp_path / "ids.txt")]) == 0
    assert f"(2 results): {len(ids)} of {len(ids)} recordings are in." in capsys.readouterr().out
    (tmp_path / "ids.txt").write_text("\n".join([*ids, "somebody/else.wav"]))
    assert record.main([*asked, str(tmp_path / "ids.txt")]) == 1
    assert "In no request: somebody/else.wav" in capsys.readouterr().out
    (tmp_path / "record_salt").write_text("0" * 64)
    asked[3] = str(tmp_path / "record_salt")
    assert record.main([*asked, str(tmp_path / "ids.txt")]) == 1
    assert "not that of this record" in capsys.readouterr().err


def removed(outputs: Path, *words: str) -> int:
    return store.main(["purge", "--output", str(outputs), "--request", str(results(outputs, "finetune")[0]), *words])


def test_a_purge_asks_and_names_other_results_first(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(outputs.rglob("*"))
    assert removed(outputs) == 1
    told = capsys.readouterr()
    assert "2 other results need what would be removed" in told.out and "add --yes" in told.err
    assert sorted(outputs.rglob("*")) == before


def test_a_purge_leaves_no_recording_and_the_record_says_so(
    outputs: Path, tmp_path: Path, tones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results(outputs, "finetune")[0]
    ids = (folder / "forget.txt").read_text().splitlines()
    (outputs / "sweeps" / "0123" / "3.json").write_text(json.dumps({"ids": ids[:1]}))
    assert removed(outputs, "--yes") == 0
    ledger = read_json(folder / "purge.json")
    assert ledger["found"] == [] and ledger["searched"]["ids"] == ledger["searched"]["recordings"] == len(ids)
    for path in outputs.rglob("*"):
        assert not path.is_file() or not any(identity.encode() in path.read_bytes() for identity in ids), path
    assert {path.parts[-3] for path in outputs.glob("*/*/DONE")} == {"oracle", "unlearned", "result"}
    assert not list(outputs.glob("original/*")) and not list(outputs.glob("cache/audio/*/samples.npy"))
    assert [path.name.split("-")[0] for path in outputs.glob("oracle/*")] == ["folder"]  # that of the request
    assert store.main(["verify", str(outputs)]) == 0
    assert check(outputs) == 0  # the record that was made before
    write_record(outputs, build(outputs))
    again = expanded(read_record(outputs / "record.json"))
    purged = [result for result in again if result["purge"]]
    assert {result["method"] for result in purged} == {"none", "finetune"} and len(purged) == 2
    assert purged[0]["models"]["original"]["path"] is None and purged[0]["models"]["original"]["weights"]
    assert len(purged[0]["request"]["hashes"]) == len(ids)
    status = {row["requirement"]: row["status"] for row in purged[0]["standards"]}
    assert status["AISVS C12.2.1"] == "shown" and check(outputs) == 0
    assert removed(outputs, "--yes") == 0 and "was purged on" in capsys.readouterr().out


def test_a_killed_purge_is_continued(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it had removed when it was killed, the ledger is the same."""
    folder = results(outputs, "finetune")[0]

    class Killed(BaseException):
        pass

    def killed_after(count: int) -> Callable[..., None]:
        done: list[Path] = []

        def remove(path: Path, lock: str) -> None:
            done.append(path)
            if len(done) > count:
                raise Killed
            really(path, lock)

        return remove

    really = purging._remove
    for count in (0, 3, 2):
        monkeypatch.setattr(purging, "_remove", killed_after(count))
        with pytest.raises(Killed):
            removed(outputs, "--yes")
    monkeypatch.setattr(purging, "_remove", really)
    assert removed(outputs) == 0  # it was agreed to before
    assert not (folder / purging.STATE).exists() and read_json(folder / "purge.json")["found"] == []
    assert len(read_json(folder / "purge.json")["gone"]) > 5 and store.main(["verify", str(outputs)]) == 0


def test_what_is_still_found_fails_and_the_purge_can_be_repeated(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results(outputs, "finetune")[0]
    notes = outputs / "notes" / "mine.txt"
    notes.parent.mkdir()
    shutil.copy(folder / "forget.txt", notes)
    assert removed(outputs, "--yes") == 1
    assert "notes/mine.txt" in capsys.readouterr().out and read_json(folder / "purge.json")["found"] == [
        "notes/mine.txt"
    ]
    notes.unlink()
    assert removed(outputs, "--yes") == 0 and read_json(folder / "purge.json")["found"] == []


def test_the_delivered_models_of_other_requests_are_kept_unless_asked_for(outputs: Path) -> None:
    kept = next(outputs.glob("unlearned/none-*class*"))
    assert removed(outputs, "--yes") == 0
    ledger = read_json(results(outputs, "finetune")[0] / "purge.json")
    assert kept.exists() and any(kept.name in entry["what"] for entry in ledger["kept"])


def test_derived_models_go_when_asked_for(outputs: Path) -> None:
    assert removed(outputs, "--yes", "--derived") == 0
    assert not list(outputs.glob("unlearned/none-*class*")) and list(outputs.glob("unlearned/*sample*"))


def test_a_purge_without_a_result_is_one_sentence(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = next(outputs.glob("scores/*"))
    assert store.main(["purge", "--output", str(outputs), "--request", str(scores)]) == 1
    assert "is no finished result" in capsys.readouterr().err
    with pytest.raises(UserError, match="no list of its request"):
        (results(outputs, "finetune")[0] / "forget.txt").unlink()
        purge.purge(outputs, str(results(outputs, "finetune")[0]), True, False)


@pytest.mark.slow
def test_attacks_and_several_oracles_are_reproduced(configure: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    prototype = "{_target_: speechforget.attacks.prototype.Prototype}"
    words = ["task=sample", "task.percent=20", "method=none", "train.epochs=1", "train.warmup=0", "evaluation=full"]
    words += [f"evaluation.attacks=[{prototype}]", "evaluation.oracles=3", "seed=10", f"output={tmp_path}"]
    config = configure(*words)
    Pipeline(config, Store.of(config)).result()
    (entry,) = expanded(build(tmp_path))
    outputs = Outputs(tmp_path)
    again = recompute(outputs, outputs.results[0], entry)
    assert again.difference is None and "attacks on models" in again.left_out[0]
    assert any(name.startswith("prototype") for name in entry["comparison"]["unlearned"]["names"])


def test_models_are_joined_in_the_order_of_their_seeds() -> None:
    names = ["oracle", "oracle-seed10", "oracle-seed2", "original", "unlearned"]
    ordered = [name for name, _ in joined.in_order(dict.fromkeys(names, "key"))]
    assert [name for name in ordered if name.startswith("oracle")] == ["oracle", "oracle-seed2", "oracle-seed10"]


@pytest.mark.parametrize("open_ids", [False, True])
def test_a_page_names_people_only_if_asked(outputs: Path, open_ids: bool) -> None:
    page = make_page(outputs, tables_below(outputs), Asked(open_ids=open_ids))["report.html"]
    found = [page[max(0, at.start() - 150) : at.end() + 80] for at in re.finditer(WHO, page)]
    assert bool(found) == open_ids, found
