"""A checkpoint of Hugging Face as the original."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support import spoken_tones
from support.user_checkpoints import copied, hugging_face, only, result_of

from speechforget import pipeline
from speechforget._torchaudio import torchaudio  # noqa: F401  before transformers, which imports it
from speechforget.config.validate import check
from speechforget.errors import UserError
from speechforget.models.checkpoint import check_labels, read_checkpoint
from speechforget.models.folder import load_classifier
from speechforget.models.vocabulary import outputs_of, write_vocabulary
from speechforget.report.caveats import caveats
from speechforget.stages.import_checkpoint import reorder


def test_a_checkpoint_of_hugging_face_is_read(configure, tmp_path: Path) -> None:
    folder = tmp_path / "hubert"
    folder.mkdir()
    hugging_face(folder, id2label={"10": "word3", "0": "word0", "2": "word1", "1": "word2"})
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    config = configure(f"original.checkpoint={folder}", "model=hubert_base")
    found = read_checkpoint(config)
    assert found is not None and found.labels == ("word0", "word2", "word1", "word3") and found.sample_rate == 8000
    assert set(found.files) == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert "pretrained weights (hubert" in caveats(config, found)[-1]
    digest = found.digest
    (folder / "optimizer.pt").write_bytes(b"of no account")
    assert found.digest == digest
    (folder / "model.safetensors").write_bytes(b"others")
    assert found.digest != digest


@pytest.fixture
def hubert(tmp_path: Path) -> tuple[Path, list[str]]:
    """A very small HuBERT as transformers saves it, and what a run must say of it."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "classifier_proj_size": 8,
    }
    convolutions = {"conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [5, 80], "num_conv_pos_embeddings": 4}
    names = {
        "id2label": {0: "word3", 1: "word0", 2: "word1", 3: "word2"},
        "label2id": {"word3": 0, "word0": 1, "word1": 2, "word2": 3},
    }
    torch.manual_seed(0)
    config = transformers.HubertConfig(**sizes, **convolutions, **names, num_conv_pos_embedding_groups=2)
    transformers.HubertForSequenceClassification(config).save_pretrained(tmp_path / "hubert")
    options = [
        "model=hubert_base",
        "model.pretrained=null",
        "dataset.sample_rate=16000",
        "method=finetune",
        "method.epochs=1",
    ]
    return tmp_path / "hubert", options


def test_a_classifier_of_hugging_face_is_an_original(hubert, configure, tmp_path: Path, capsys) -> None:
    folder, options = hubert
    from transformers import AutoModelForAudioClassification

    output = tmp_path / "output"
    config = configure(f"output={output}", f"original.checkpoint={folder}", *options)
    check(config)
    pipeline.run(config)
    assert "pretrained weights (hubert" in " ".join(capsys.readouterr().out.split())
    theirs = AutoModelForAudioClassification.from_pretrained(folder).eval()
    shutil.rmtree(folder)  # the original stands on its own
    mine, parts = load_classifier(only(list(output.glob("original/*-*[0-9a-f]"))))
    assert parts["labels"] == ["word0", "word1", "word2", "word3"] and parts["model"]["pretrained"] is None
    sound = 0.1 * torch.randn(2, 8000)
    normal = (sound - sound.mean(1, keepdim=True)) / (sound.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        expected = theirs(normal).logits[:, [1, 2, 3, 0]]
        assert torch.allclose(mine(sound, torch.tensor([8000, 8000])).logits, expected, atol=1e-4)
    result = result_of(output)
    assert (
        "The original starts from pretrained weights (hubert, fine-tuned by the user): "
        "what pre-training learned of the forget utterances was not unlearned."
    ) in result["notes"]
    copy = copied(only(list(output.glob("original/*-*[0-9a-f]"))), tmp_path / "copy")
    again = configure(f"output={output}", f"original.checkpoint={copy}", *options, "only=original")
    pipeline.run(again)
    assert len(list(output.glob("original/*/DONE"))) == 2


def test_a_damaged_classifier_of_hugging_face_is_one_sentence(hubert, configure, tmp_path: Path) -> None:
    folder, options = hubert
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError) as raised:
        pipeline.run(configure(f"output={tmp_path / 'output'}", f"original.checkpoint={folder}", *options))
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)
    assert not list((tmp_path / "output").glob("original/*"))


def test_a_head_that_is_not_made_of_rows_is_refused() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Bilinear(1, 1, 3)

        def forward(self, waveform, lengths):
            from speechforget.models.classifier import Output

            logits = waveform[:, :3] @ torch.arange(9.0).reshape(3, 3)
            return Output(logits, logits)

    with pytest.raises(RuntimeError, match="Bilinear"), torch.no_grad():
        reorder(Odd(), [1, 0, 2], 100)


@pytest.fixture
def transcriber(tmp_path: Path) -> Path:
    """A very small wav2vec 2.0 of CTC as transformers saves it, with letters that the corpus lacks."""
    transformers = pytest.importorskip("transformers")
    folder, tokens = tmp_path / "ctc", ["<s>", "<pad>", "Q", "|", "D", "C", "B", "A", "'"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    shape = {"conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [5, 16], "num_conv_pos_embeddings": 4}
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        **sizes, **shape, vocab_size=len(tokens), pad_token_id=1, num_conv_pos_embedding_groups=2
    )
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    return folder


def test_a_transcriber_of_hugging_face_is_an_original(transcriber: Path, configure, tmp_path: Path) -> None:
    from transformers import AutoModelForCTC

    recordings = spoken_tones.write(tmp_path / "spoken", speakers=3, each=10)
    own = [each for each in spoken_tones.OPTIONS if not each.startswith(("model", "dataset.sample_rate"))]
    config = configure(
        *own, "model=wav2vec2_ctc", "model.pretrained=null", f"dataset.root={recordings}", "dataset.sample_rate=16000",
        f"output={tmp_path / 'out'}", f"original.checkpoint={transcriber}", "method=finetune", "method.epochs=1",
    )  # fmt: skip
    config["dataset"]["corpus"].pop("speaker_pattern", None)
    check(config)
    pipeline.run(config)
    theirs = AutoModelForCTC.from_pretrained(transcriber).eval()
    mine, parts = load_classifier(only(list((tmp_path / "out").glob("original/*-*[0-9a-f]"))))
    assert parts["labels"] == ["", " ", "a", "b", "c", "d"] and parts["model"]["pretrained"] is None
    sound = torch.randn(1, 8000)
    with torch.no_grad():
        scaled = (sound - sound.mean()) / torch.sqrt(sound.var(correction=0) + 1e-7)
        expected = theirs(scaled).logits[..., [1, 3, 7, 6, 5, 4]]
        assert torch.allclose(mine(sound, torch.tensor([8000])).logits, expected, atol=1e-4)


def test_a_checkpoint_that_lacks_letters_or_names_is_refused(transcriber: Path, configure, tmp_path: Path) -> None:
    config = configure(f"original.checkpoint={transcriber}", "model=wav2vec2_ctc", "dataset.label=text")
    found = read_checkpoint({**config, "dataset": {**config["dataset"], "sample_rate": 16000}})
    assert found is not None and found.labels == ("<s>", "", "q", " ", "d", "c", "b", "a", "'")
    check_labels(found, ["", " ", "a"])
    with pytest.raises(UserError, match="does not know 'z'"):
        check_labels(found, ["", " ", "z"])
    with pytest.raises(UserError, match="not a classifier"):
        read_checkpoint(configure(f"original.checkpoint={transcriber}", "model=wav2vec2_base"))
    (transcriber / "vocab.json").unlink()
    with pytest.raises(UserError, match=r"no readable vocab.json"):
        read_checkpoint(config)


def test_a_vocabulary_is_read_as_it_was_written(tmp_path: Path) -> None:
    labels = ["", " ", "'", "a", "\u00e9"]
    write_vocabulary(tmp_path, labels)
    assert outputs_of(tmp_path, {"pad_token_id": 0}) == labels
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))["|"] == 1
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 2}')
    with pytest.raises(UserError, match="does not number its outputs from 0"):
        outputs_of(tmp_path, {})
