"""The comparison of one run, in the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from speechforget.report.machines import compare_in_seconds, machine_sentence
from speechforget.report.record import FEWEST_NONMEMBERS, footnotes, has_oracle, oracle_verdict
from speechforget.report.width import fitting, left_out

if TYPE_CHECKING:
    from rich.console import Console

# metric, heading, factor (percent), decimals
COLUMNS = (
    ("accuracy_forget", "forget\n%", 100, 1),
    ("accuracy_retain", "retain\n%", 100, 1),
    ("accuracy_test", "test\n%", 100, 1),
    ("accuracy_test_forgotten", "test, for-\ngotten %", 100, 1),
    ("membership_nonmember_share", "judged non-\nmember %", 100, 1),
    ("membership_auc", "attack\nAUC", 1, 3),
    ("seconds", "seconds", 1, 1),
)
# What a narrow terminal keeps longest comes first.
NARROW = (
    "accuracy_forget",
    "accuracy_retain",
    "accuracy_test",
    "membership_auc",
    "accuracy_test_forgotten",
    "membership_nonmember_share",
    "seconds",
)
WORTH_A_RATIO = 0.05  # seconds; a method that does nothing is not a million times faster
WIDTH = 112


def number(value: float | None, factor: float, decimals: int, missing: str = "–", sign: bool = False) -> str:
    """`value * factor` in fixed decimals, never "-0.0"; `missing` for None."""
    if value is None:
        return missing
    rounded = round(value * factor, decimals) + 0.0
    return f"{rounded:{'+' if sign else ''}.{decimals}f}" if rounded or not sign else f"{0:.{decimals}f}"


def describe(result: Mapping[str, Any]) -> str:
    """One line: method, request, dataset, model, seed."""
    return f"{result['method']} · {result['request']['name']} · {result['dataset']} ({result['label']}) · {result['model']} · seed {result['seed']}"


def attack_sentence(result: Mapping[str, Any]) -> str:
    """The oracle's attack AUC with its number of non-members and 99 % interval, and what to make of it; empty where it was not measured."""
    entry = result["comparison"]["oracle"].get("membership_auc")
    verdict = oracle_verdict(result)
    whose = "Oracle's membership" if has_oracle(result) else "Membership"
    without = {
        "not measured": "",
        "no oracle": "Membership attack: no oracle, so the attack cannot be checked.",
        "no holdout": f"{whose} attack: no holdout (dataset.holdout is 0), so membership is not measured.",
        "no matching holdout": "Oracle's membership attack: no holdout utterance matches the request, so there is no AUC.",
    }
    if entry is None or verdict in without:
        return without[verdict]
    text = f"Oracle's membership attack: AUC {entry['value']:.3f}, 99 % interval {entry['low']:.3f} to {entry['high']:.3f}, "
    text += f"{entry['count']} non-members"
    if verdict == "too few":
        return f"{text}: too few to tell (fewer than {FEWEST_NONMEMBERS})."
    if verdict == "outside":
        return (
            f"{text}.\n* 0.5 lies outside: without ever seeing them, the oracle tells the forget utterances from their non-members, so the two "
            "differ in more than membership; compare the attack with the oracle's value only."
        )
    return f"{text}; 0.5 lies inside."


def threshold_sentence(result: Mapping[str, Any]) -> str:
    """How often the attack behind `judged non-member` is right about recordings that it was not fitted on; empty where that is not known."""
    parts = []
    for model, metrics in result["comparison"].items():
        accuracy = metrics.get("membership_attack_accuracy") or {"value": None}
        if accuracy["value"] is not None and accuracy["low"] is not None:  # results of older code have no interval
            interval = f"{number(accuracy['low'], 100, 1)} to {number(accuracy['high'], 100, 1)}"
            parts.append(f"{model} {number(accuracy['value'], 100, 1)} % ({interval})")
    if not parts:
        return ""
    text = f"Judged non-member's attack, right about held-out recordings (99 % interval; 50 % is guessing): {', '.join(parts)}."
    withheld = any(
        metrics.get("membership_nonmember_share", {}).get("reason") for metrics in result["comparison"].values()
    )
    return f"{text} –: no better than guessing, so there is no share." if withheld else text


def distance_sentence(result: Mapping[str, Any]) -> str:
    """How far unlearned is from the oracle, in those single numbers that were computed; empty for none."""
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
    parts = [
        f"{words} {_undefined(metrics[name]) if metrics[name]['value'] is None else number(metrics[name]['value'], factor, decimals) + unit}"
        for name, words, factor, decimals, unit in shown
        if name in metrics
    ]
    return f"Unlearned against the oracle: {', '.join(parts)}." if parts else ""


def _undefined(entry: Mapping[str, Any]) -> str:
    reason = entry.get("reason")
    return f"undefined ({reason})" if reason else "undefined"


def _without_attack(metrics: Mapping[str, Any]) -> str:
    """Where the average gap is of three accuracies alone, as nothing is known of the fourth, the attack's AUC."""
    return " (accuracies only, without the attack)" if metrics.get("average_gap", {}).get("count") == 3 else ""


def _cells(result: Mapping[str, Any], model: str, separator: str) -> list[str]:
    metrics, oracle = result["comparison"][model], result["comparison"]["oracle"]
    compares = model == "unlearned" and compare_in_seconds(result)
    if model == "oracle" and not has_oracle(result):
        return ["none"] * len(COLUMNS)
    cells = []
    for name, _, factor, decimals in COLUMNS:
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
    """Prints original, oracle and unlearned, beside each value its signed gap to the oracle (in points where the value is in percent).

    result: what `write_result` returned. Plain text where the output is no terminal. Columns that a terminal is too narrow for are named instead.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(highlight=False, width=WIDTH)
    models = list(result["comparison"])
    for separator in (" ", "\n"):
        texts = [_cells(result, model, separator) for model in models]
        plain = [[Text.from_markup(cell).plain for cell in line] for line in texts]
        ranks = [NARROW.index(name) if name in NARROW else len(NARROW) for name, *_ in COLUMNS]
        kept = fitting([heading for _, heading, _, _ in COLUMNS], plain, ranks, console.width, len("unlearned"))
        if len(kept) == len(COLUMNS):
            break
    verdict = oracle_verdict(result)
    table = Table(
        title=Text(title or describe(result)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True, vertical="top")
    for place, letters in kept.items():
        table.add_column(COLUMNS[place][1], justify="right", vertical="top", width=letters)
    for model, line in zip(models, texts, strict=True):
        mark = " *" if model == "oracle" and verdict == "outside" else ""
        table.add_row(model + mark, *(line[place] for place in kept), style="bold" if model == "oracle" else None)
    console.print(table)
    dropped = [_on_one_line(heading) for place, (_, heading, _, _) in enumerate(COLUMNS) if place not in kept]
    if dropped:
        console.print(left_out(dropped, "result.json holds them all"), style="dim", highlight=False)
    if has_oracle(result):
        faster = (
            ", and beside seconds how much faster than the oracle"
            if compare_in_seconds(result) and "seconds" not in dropped
            else ""
        )
        console.print(f"[dim]Beside each value: its gap to the oracle, the aim{faster}.[/dim]", highlight=False)
    for sentence in _sentences(result):
        console.print(sentence, markup=False, highlight=False)


def _on_one_line(heading: str) -> str:
    return heading.replace("for-\n", "for").replace("-\n", "-").replace("\n", " ")


def _sentences(result: Mapping[str, Any]) -> list[str]:
    """What must be read beside the numbers."""
    machines = machine_sentence(result) if has_oracle(result) else None
    said = [machines, attack_sentence(result), threshold_sentence(result), distance_sentence(result)]
    return [*(sentence for sentence in said if sentence), *(result.get("flags") or {}).values(), *footnotes(result)]
