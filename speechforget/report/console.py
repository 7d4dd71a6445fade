"""The comparison of one run as a table for the terminal, with the sentences below it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from speechforget.evaluation.membership import GUESSING
from speechforget.report.adversarial import backdoor_sentence, damage_sentence, warning_sentence
from speechforget.report.columns import RUN_COLUMNS, Column, fit, left_out, number, shown
from speechforget.report.cost import compare_in_seconds, machine_sentence
from speechforget.report.record import FEWEST_NONMEMBERS, footnotes, has_oracle, oracle_verdict

if TYPE_CHECKING:
    from rich.console import Console

# Below so many seconds no speed-up is shown: a method that does nothing is not a million times faster.
WORTH_A_RATIO = 0.05
HINT = " A hint"  # begins numbers of a verdict that decide nothing
NAMES_SHOWN = 8  # of numbers that separate
WIDTH = 112  # letters, where the output is not a terminal


def describe(result: Mapping[str, Any]) -> str:
    """Name the run in one line: method, request, dataset, model, seed."""
    dataset = f"{result['dataset']} ({result['label']})"
    return " · ".join([result["method"], result["request"]["name"], dataset, result["model"], f"seed {result['seed']}"])


def attack_sentence(result: Mapping[str, Any]) -> str:
    """Judge the oracle's attack AUC by its 99 % interval and number of non-members; empty if it was not measured."""
    entry = result["comparison"]["oracle"].get("membership_auc")
    verdict = oracle_verdict(result)
    attack = "Oracle's membership attack" if has_oracle(result) else "Membership attack"
    without = {
        "not measured": "",
        "no oracle": "Membership attack: no oracle, so the attack cannot be checked.",
        "no holdout": f"{attack}: no holdout (dataset.holdout is 0), so membership is not measured.",
        "no matching holdout": f"{attack}: no holdout utterance matches the request, so there is no AUC.",
    }
    if entry is None or verdict in without:
        return without[verdict]
    interval = f"99 % interval {entry['low']:.3f} to {entry['high']:.3f}"
    text = f"{attack}: AUC {entry['value']:.3f}, {interval}, {entry['count']} non-members"
    if verdict == "too few":
        return f"{text}: too few to judge the attack (fewer than {FEWEST_NONMEMBERS})."
    if verdict == "outside":
        return (
            f"{text}.\n* 0.5 is outside the interval: the oracle was not trained on the forget utterances, but the "
            "attack tells them from their non-members. The two differ in more than membership, so compare the attack "
            "with the oracle's value only."
        )
    return f"{text}; 0.5 is inside the interval."


def threshold_sentence(result: Mapping[str, Any]) -> str:
    """Give the held-out accuracy of the attack behind `judged non-member`, for each model; empty if it is not known."""
    parts = []
    for model, metrics in result["comparison"].items():
        accuracy = metrics.get("membership_attack_accuracy") or {"value": None}
        # Results of older code have no interval.
        if accuracy["value"] is not None and accuracy["low"] is not None:
            interval = f"{number(accuracy['low'], 100, 1)} to {number(accuracy['high'], 100, 1)}"
            parts.append(f"{model} {number(accuracy['value'], 100, 1)} % ({interval})")
    if not parts:
        return ""
    text = "Accuracy of the attack behind 'judged non-member' on held-out recordings "
    text += f"(99 % interval; 50 % is guessing): {', '.join(parts)}."
    shares = [metrics.get("membership_nonmember_share", {}) for metrics in result["comparison"].values()]
    withheld = any(str(share.get("reason", "")).startswith(GUESSING) for share in shares)
    return f"{text} – marks an attack no better than guessing, which gives no share." if withheld else text


def distance_sentence(result: Mapping[str, Any]) -> str:
    """Give the single numbers that compare the unlearned model with the oracle; empty if none was computed."""
    if not has_oracle(result):
        return ""
    metrics = result["comparison"]["unlearned"]
    shown = (
        ("average_gap", "average gap", 100, 1, f" points{_without_attack(metrics)}"),
        ("tow", "ToW", 1, 3, ""),
        ("kl_forget", "KL on forget", 1, 3, " nats"),
        ("kl_test", "KL on test", 1, 3, " nats"),
        ("js_forget", "JS on forget", 1, 3, " nats"),
        ("churn_forget", "churn on forget", 100, 1, " %"),
        ("churn_test", "churn on test", 100, 1, " %"),
    )
    parts = []
    for name, words, factor, decimals, unit in shown:
        if name in metrics:
            value = metrics[name]["value"]
            told = _undefined(metrics[name]) if value is None else number(value, factor, decimals) + unit
            parts.append(f"{words} {told}")
    return f"Unlearned against the oracle: {', '.join(parts)}." if parts else ""


def _undefined(entry: Mapping[str, Any]) -> str:
    reason = entry.get("reason")
    return f"undefined ({reason})" if reason else "undefined"


def _without_attack(metrics: Mapping[str, Any]) -> str:
    """Mark an average gap of the three accuracies only, because the attack AUC is not known."""
    return " (accuracies only, without the attack)" if metrics.get("average_gap", {}).get("count") == 3 else ""


def columns_of(result: Mapping[str, Any]) -> list[Column]:
    """List the columns of the table of one run (see `columns.shown`)."""
    return shown(RUN_COLUMNS, {name for metrics in result["comparison"].values() for name in metrics})


def _cells(result: Mapping[str, Any], model: str, separator: str) -> list[str]:
    metrics, oracle = result["comparison"][model], result["comparison"]["oracle"]
    compares = model == "unlearned" and compare_in_seconds(result)
    if model == "oracle" and not has_oracle(result):
        return ["none"] * len(columns_of(result))
    cells = []
    for name, _, factor, decimals, *_ in columns_of(result):
        entry = metrics.get(name)
        if entry is None or entry["value"] is None:
            missing = name.startswith("membership") and not result["holdout"]
            cells.append("no holdout" if missing else "–")
            continue
        cell = number(entry["value"], factor, decimals)
        if name == "seconds" and compares and entry["value"] >= WORTH_A_RATIO and oracle[name]["value"]:
            cell += f"{separator}[dim]{oracle[name]['value'] / entry['value']:.1f}x[/dim]"
        elif name != "seconds" and model != "oracle" and entry["gap"] is not None:
            cell += f"{separator}[dim]{number(entry['gap'], factor, decimals, sign=True)}[/dim]"
        cells.append(cell)
    return cells


def print_comparison(result: Mapping[str, Any], title: str | None = None, console: Console | None = None) -> None:
    """Print original, oracle and unlearned model, and beside each value its signed gap to the oracle.

    result: from `write_result`. Gaps are in points if the value is in percent. Prints plain text if the output is not a
    terminal. Columns that do not fit the terminal are named below the table.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(highlight=False, width=WIDTH)
    models, columns = list(result["comparison"]), columns_of(result)
    for separator in (" ", "\n"):
        texts = [_cells(result, model, separator) for model in models]
        plain = [[Text.from_markup(cell).plain for cell in line] for line in texts]
        ranks = [column.rank for column in columns]
        kept = fit([column.heading for column in columns], plain, ranks, console.width, len("unlearned"))
        if len(kept) == len(columns):
            break
    verdict = oracle_verdict(result)
    for answer in verdict_lines(result):
        console.print(answer, highlight=False)
    table = Table(
        title=Text(title or describe(result)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True, vertical="top")
    for index, letters in kept.items():
        table.add_column(columns[index].heading, justify="right", vertical="top", width=letters)
    for model, line in zip(models, texts, strict=True):
        mark = " *" if model == "oracle" and verdict == "outside" else ""
        table.add_row(model + mark, *(line[index] for index in kept), style="bold" if model == "oracle" else None)
    console.print(table)
    dropped = [column.heading for index, column in enumerate(columns) if index not in kept]
    if dropped:
        console.print(left_out(dropped, "All columns are in result.json"), style="dim", highlight=False)
    if has_oracle(result):
        speed = "; beside seconds: the speed-up over the oracle"
        shown = speed if compare_in_seconds(result) and "seconds" not in dropped else ""
        console.print(f"[dim]Beside each value: its gap to the oracle, which is the aim{shown}.[/dim]", highlight=False)
    for sentence in _sentences(result):
        console.print(sentence, markup=False, highlight=False)


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """Write the verdict: each question with its word and the sentence behind it. Empty for results of older code.

    Hints are left out: their numbers are in the table below. result.json has them.
    """
    from rich.markup import escape

    lines = []
    for answer in result.get("verdict") or []:
        sentence = escape(answer["sentence"].partition(HINT)[0])
        told = sentence if sentence.lower().startswith(answer["word"]) else f"{answer['word'].capitalize()}: {sentence}"
        lines.append(f"[bold]{escape(answer['question'])}[/bold] {told}")
    return lines


def power_sentence(result: Mapping[str, Any]) -> str:
    """Name the numbers that tell models that know from models that do not; empty without an audit."""
    judged = result.get("power") or {}
    strong = [name for name, one in judged.items() if not one["weak"]]
    if not judged:
        return ""
    told = f"{len(strong)} of {len(judged)} numbers separate originals from oracles on this corpus"
    more = f" and {len(strong) - NAMES_SHOWN} more (all are in result.json)" if len(strong) > NAMES_SHOWN else ""
    return f"{told}{': ' if strong else ''}{', '.join(strong[:NAMES_SHOWN])}{more}. The others are weak."


def _sentences(result: Mapping[str, Any]) -> list[str]:
    """List the sentences that must be read with the numbers."""
    machines = machine_sentence(result) if has_oracle(result) else None
    said = [machines, attack_sentence(result), threshold_sentence(result), distance_sentence(result)]
    said += [told(result) for told in (backdoor_sentence, damage_sentence, warning_sentence, power_sentence)]
    return [*(sentence for sentence in said if sentence), *(result.get("flags") or {}).values(), *footnotes(result)]
