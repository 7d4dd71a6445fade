"""Write the model card of an exported folder: `README.md` in the format of Hugging Face, with the evidence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tabulate import tabulate

from speechforget.config.inputs import decisive
from speechforget.data.tables.transcript import TEXT
from speechforget.export.library import TRANSFORMERS
from speechforget.export.source import Source

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Numbers of every card, where they were measured; beside them stand those that the verdict rests on.
ALWAYS = (
    *("accuracy_forget", "accuracy_retain", "accuracy_test", "accuracy_test_forgotten", "membership_auc"),
    *("word_error_rate_forget", "word_error_rate_retain", "word_error_rate_test", "character_error_rate_forget"),
)
OWN = "folder"  # the dataset of a user's own recordings, which the hub does not know
ROLES = {
    "unlearned": "The unlearned model: {method} changed the original so that it forgets {what}.",
    "oracle": "The oracle: it was trained from scratch without {what}, by the recipe of the original.",
    "original": "**The original: it was trained on all recordings, and nothing was forgotten.**",
}
NOT_SHOWN = (
    "Copies of the recordings elsewhere, other models trained on them, and models made of this one are not covered.",
    "The questions above were answered by these tests on this corpus; other attacks may find more.",
    "The names of all outputs stay in the model, those of forgotten classes too.",
)


class _Kind(NamedTuple):
    """Say what a model does: for the hub, in words, and by which call of ours and which class of the library."""

    tag: str
    metric: str
    indexed: tuple[str, ...]
    does: str
    call: str
    library: str


CLASSES = _Kind(
    *("audio-classification", "accuracy", ("accuracy_test", "accuracy_test_forgotten")),
    *("classifies {label}s", "classify", "AutoModelForAudioClassification"),
)
TEXTS = _Kind(
    *("automatic-speech-recognition", "wer", ("word_error_rate_test",)),
    *("writes down what is said", "transcribe", "AutoModelForCTC"),
)


def _kind(source: Source) -> _Kind:
    return TEXTS if source.record["label"] == TEXT else CLASSES


def write_card(folder: Path, source: Source, told: Mapping[str, Any]) -> None:
    """Write `README.md`. told: the content of export.json. It names no recording and no path of this machine."""
    parts = [_front_matter(source, told), *_sections(source, told)]
    (folder / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _front_matter(source: Source, told: Mapping[str, Any]) -> str:
    """Return the metadata that the hub reads; the license is unknown, so it is `other`."""
    record, kind, pretrained = source.record, _kind(source), str(source.config["model"].get("pretrained") or "")
    library = told["formats"].get("folder", {}).get("kind") == TRANSFORMERS
    meta: dict[str, Any] = {
        "license": "other",
        "license_name": "unknown",
        "library_name": TRANSFORMERS if library else "speechforget",
        "pipeline_tag": kind.tag,
        "tags": [kind.tag, "speech", "machine-unlearning", "speechforget", record["model"]],
        "metrics": [kind.metric],
    }
    if record["dataset"] != OWN:
        meta["datasets"] = [record["dataset"]]
    if HUB_NAME.fullmatch(pretrained) and not Path(pretrained).exists():
        meta["base_model"] = pretrained
    if entries := list(_index(source)):
        task = {"type": kind.tag, "name": f"{record['label']} {kind.tag.rpartition('-')[2]}"}
        dataset = {"type": record["dataset"], "name": record["dataset"], "split": "test"}
        results = [{"task": task, "dataset": dataset, "metrics": entries}]
        meta["model-index"] = [{"name": _title(source), "results": results}]
    return f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---"


def _index(source: Source) -> Iterator[dict[str, Any]]:
    """Yield the numbers on test for the hub's index; `verified` is what the hub itself has measured."""
    kind = _kind(source)
    for name in kind.indexed:
        entry = source.record["comparison"][source.model.name].get(name) or {"value": None}
        if entry["value"] is not None:
            yield {"type": kind.metric, "name": name, "value": entry["value"], "verified": False}


def _title(source: Source) -> str:
    record = source.record
    made = record["method"] if source.model.name == "unlearned" else source.model.name
    return f"{record['model']} on {record['dataset']} ({record['label']}), {made}"


def _what(record: Mapping[str, Any]) -> str:
    request = record["request"]
    if (attribute := request.get("attribute")) is not None:
        return f"what tied {attribute} to the label"
    classes = len(request["forgotten"])
    whole = f", all of {classes} class{'es' * (classes != 1)}" if classes else ""
    return f"{request['forget']} recordings{whole}"


def _sections(source: Source, told: Mapping[str, Any]) -> list[str]:
    record, name = source.record, source.model.name
    role = ROLES[name].format(method=record["method"], what=_what(record))
    return [
        f"# {_title(source)}",
        f"{role} It {_kind(source).does.format(label=record['label'])} in recordings of up to {told['seconds']:g} s "
        f"at {told['sample_rate']} Hz.",
        f"## Training and request\n\n{_list(_facts(source))}",
        _evidence(source),
        f"## Numbers\n\n{_numbers(source)}",
        _quantised(told),
        f"## What was not shown\n\n{_list(_not_shown(source))}",
        f"## Use\n\n{_use(told, _kind(source))}",
        f"## Repeat\n\n{_repeat(source, told)}",
    ]


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _facts(source: Source) -> list[str]:
    record, request = source.record, source.record["request"]
    original = source.config["original"]["checkpoint"] is not None
    start = "a checkpoint of the user, whose training set is not known" if original else "trained for this result"
    asked = [
        f"Request: {_what(record)} of {request['forget'] + request['retain']} training recordings, chosen by "
        f"{_chosen(record['task'])}; {request['retain']} were retained.",
        f"Non-members for attacks: {request['nonmembers']} recordings that no model was trained on.",
    ]
    if (attribute := request.get("attribute")) is not None:
        asked = [f"Request: the model shall not carry {attribute}; its recordings and labels stay."]
    return [
        f"Corpus: {record['dataset']}; the original is {start}.",
        *asked,
        f"Seeds: {record['seed']} for training and method, {source.config['task']['seed']} for the request, "
        f"{source.config['dataset']['split_seed']} for the split.",
    ]


def _chosen(task: Mapping[str, Any]) -> str:
    return "class" if task["kind"] == "class" else str(task.get("by", "random"))


def _evidence(source: Source) -> str:
    """Write the answers of the verdict; they are about the unlearned model only."""
    if source.model.name != "unlearned":
        return ""
    answers = [f"**{one['question']}** {one['sentence']}" for one in source.record.get("verdict") or []]
    flags = list((source.record.get("flags") or {}).values())
    return f"## Evidence of forgetting\n\n{_list([*flags, *answers])}" if answers or flags else ""


def _numbers(source: Source) -> str:
    """Write a table: value with interval of the exported model, and the values of the others."""
    record, name = source.record, source.model.name
    found = record["comparison"]
    others = [other for other in ("original", "oracle", "unlearned") if other != name and record["artefacts"][other]]
    named = {evidence for one in record.get("verdict") or [] for evidence in one["evidence"]}
    rows = []
    for metric, entry in found[name].items():
        if entry["value"] is not None and (metric in ALWAYS or metric in named):
            values = [_value(found[other].get(metric) or {}) for other in others]
            rows.append([metric, _value(entry), _interval(entry), entry["count"], *values])
    table = tabulate(rows, [name, "value", "interval", "count", *others], tablefmt="github", disable_numparse=True)
    return f"{table}\n\n`speechforget explain NAME` says what a number means."


def _value(entry: Mapping[str, Any]) -> str:
    return "–" if entry.get("value") is None else f"{entry['value']:.4g}"


def _interval(entry: Mapping[str, Any]) -> str:
    return "–" if entry.get("low") is None else f"{entry['low']:.4g} to {entry['high']:.4g}"


def _quantised(told: Mapping[str, Any]) -> str:
    """Write what the quantised file remembers, beside the float model."""
    scores = told["formats"].get("int8", {}).get("scores")
    if not scores:
        return ""
    rows = [
        [name, *(_value(one[kind]) for kind in ("float", "int8", "oracle", "original"))]
        for name, one in scores["numbers"].items()
        if name in ALWAYS or name.startswith("loss_")
    ]
    table = tabulate(rows, ["", "float", "int8", "oracle", "original"], tablefmt="github", disable_numparse=True)
    moved = scores["moved"] or ["No number left the interval that it had before"]
    same = f"{scores['agreement']:.2%} of all recordings get the same answer as before."
    return f"## After quantisation to int8\n\n{table}\n\n{same}\n\n{_list([f'{line}.' for line in moved])}"


def _not_shown(source: Source) -> list[str]:
    record, config = source.record, source.config
    lines = [*NOT_SHOWN]
    if record.get("no_oracle"):
        lines.insert(0, "There was no oracle, so nothing shows what perfect forgetting would give.")
    if config["model"].get("pretrained"):
        lines.insert(0, "What pre-training learned of the forgotten recordings was not unlearned.")
    if record.get("untried") and source.model.name == "unlearned":
        lines.insert(0, str(record["untried"]))
    target = str(config["model"]["_target_"])
    if not target.startswith("speechforget."):
        lines.append(f"Loading needs the module of its class, `{target}`, which is not in this folder.")
    return lines


def _use(told: Mapping[str, Any], kind: _Kind) -> str:
    """Write how to call each format."""
    made, width = told["formats"], round(told["seconds"] * told["sample_rate"])
    lines = []
    if made.get("folder", {}).get("made"):
        lines.append(f'Python: `speechforget.load("FOLDER").{kind.call}("recording.wav")`.')
    if made.get("folder", {}).get("kind") == TRANSFORMERS:
        lines.append(
            f'`{kind.library}.from_pretrained("FOLDER")` with `AutoFeatureExtractor` gives the same '
            "logits for one recording. The library lets padding of a batch change them; `speechforget` does not."
        )
    graphs = [made[name]["file"] for name in ("onnx", "torchscript", "int8") if made.get(name, {}).get("made")]
    if graphs:
        lines.append(
            f"{', '.join(f'`{file}`' for file in graphs)}: inputs `waveform` (batch, samples) float32 in [-1, 1] and "
            f"`lengths` (batch) int64 in samples; outputs logits and embedding. The middle {width} samples of a longer "
            "recording are used, and padding changes nothing."
        )
    if made.get("delta", {}).get("made"):
        lines.append(
            "`delta.safetensors` is what unlearning changed. `speechforget.export.delta.add(classifier, FOLDER)` adds "
            f"it to the original model, whose key is `{made['delta']['base']['key']}`, and `take_off` takes it off "
            "again: the original below it still knows the forgotten recordings."
        )
    lines += [f"Not here: {name}, because {one['reason']}." for name, one in made.items() if not one["made"]]
    return _list(lines)


def _repeat(source: Source, told: Mapping[str, Any]) -> str:
    """Write versions, keys and the numbers of recipe and method, without paths."""
    config = source.config
    chosen = " ".join(f"{group}={config[group]['name']}" for group in ("dataset", "model", "train", "method"))
    groups = ("method", "train") if source.model.name == "unlearned" else ("train",)
    numbers = {name: decisive(name, config[name]) for name in groups}
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items() if number)
    return (
        f"`speechforget {chosen} task={config['task']['kind']} evaluation={config['evaluation']['name']} "
        f"seed={config['seed']}`, with the request and the numbers of this run. "
        f"The result has the key `{told['result']['key']}`, this model `{told['model']['key']}`: "
        "`speechforget store verify --rebuild KEY` builds each again from its record and compares. "
        f"Versions: {versions}; commit {told['commit'] or 'unknown'}.\n\n"
        f"```yaml\n{yaml.safe_dump(numbers, sort_keys=False, allow_unicode=True)}```"
    )
