"""The picture of one run's comparison."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechforget.report.console import attack_sentence, describe
from speechforget.report.record import footnotes, oracle_verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from speechforget.evaluation.tables import Tables

# Okabe and Ito's palette suits every kind of colour vision; in grey the markers differ.
COLORS = {"original": "#E69F00", "oracle": "#000000", "unlearned": "#0072B2"}
MARKERS = {"original": "^", "oracle": "o", "unlearned": "s"}
NOTE_WIDTH, NOTE_LINE = 165, 0.18  # letters per line of notes below the picture, and the height of a line in inches
FEW_TENFOLDS = 100  # if highest / lowest loss is below this, ticks are also at 2 and 5
SHIFTS = {"original": -0.27, "oracle": 0.0, "unlearned": 0.27}
SUBSETS = {
    "accuracy_forget": "forget",
    "accuracy_retain": "retain",
    "accuracy_test": "test,\nremaining classes",
    "accuracy_test_forgotten": "test,\nforgotten classes",
}
ERRORS = {f"word_error_rate_{name}": name for name in ("forget", "retain", "test")}  # of transcripts


def _point(
    axes: Axes, x: float, model: str, entry: Mapping[str, Any], factor: float, decimals: int, label: str | None = None
) -> None:
    """Draw a marker, its interval if it is known (one speaker has none), and write its value above."""
    value = entry["value"] * factor
    low, high = (value if entry[key] is None else entry[key] * factor for key in ("low", "high"))
    style: dict[str, Any] = {"color": COLORS[model], "markersize": 8, "capsize": 3, "linewidth": 1.4, "label": label}
    axes.errorbar(x, value, [[value - low], [high - value]], fmt=MARKERS[model], **style)
    text: dict[str, Any] = {
        "color": COLORS[model],
        "fontsize": 8,
        "ha": "center",
        "va": "bottom",
        "bbox": {"fc": "w", "ec": "none", "pad": 0.6},
    }
    axes.annotate(f"{value:.{decimals}f}", (x, max(high, value)), (0, 7), textcoords="offset points", **text)


def _accuracies(axes: Axes, comparison: Mapping[str, Any]) -> None:
    texts = any(name in comparison["unlearned"] for name in ERRORS)
    subsets, word = (ERRORS, "word error rate") if texts else (SUBSETS, "accuracy")
    shown = [
        name
        for name in subsets
        if any((metrics.get(name) or {}).get("value") is not None for metrics in comparison.values())
    ]
    for index, name in enumerate(shown):
        aim = comparison["oracle"][name]
        if aim["value"] is not None:
            left, right, color = index - 0.43, index + 0.43, COLORS["oracle"]
            axes.hlines(aim["value"] * 100, left, right, color=color, linewidth=1, linestyle=":")
            if aim["low"] is not None:
                axes.fill_between([left, right], aim["low"] * 100, aim["high"] * 100, color="0.9", zorder=0)
        for model, metrics in comparison.items():
            if metrics[name]["value"] is not None:
                _point(axes, index + SHIFTS[model], model, metrics[name], 100, 1, model if index == 0 else None)
    axes.set_xticks(
        range(len(shown)), ["test" if name == "accuracy_test" and len(shown) == 3 else subsets[name] for name in shown]
    )
    axes.set(ylabel=f"{word} (%)", xlim=(-0.6, len(shown) - 0.4), title=f"{word.capitalize()} (95 % intervals)")
    axes.set_ylim(-4, max(110.0, axes.get_ylim()[1]))  # more words can be wrong than were said
    if not texts:
        axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", color="0.92")


def _attack(axes: Axes, result: Mapping[str, Any]) -> None:
    comparison = result["comparison"]
    axes.set_title("Membership attack (99 % intervals)")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set(ylabel="AUC", ylim=(-0.04, 1.1), xlim=(-0.6, 2.6))
    axes.set_xticks(range(3), list(comparison))
    axes.axhline(0.5, color="0.5", linewidth=1, linestyle="--")
    axes.grid(axis="y", color="0.92")
    entries = {model: metrics.get("membership_auc") for model, metrics in comparison.items()}
    verdict = oracle_verdict(result)
    if verdict in ("not measured", "no holdout", "no matching holdout"):
        axes.text(1, 0.75, verdict, ha="center", va="center", fontsize=12)
        return
    for index, (model, entry) in enumerate(entries.items()):
        if entry is not None and entry["value"] is not None:
            _point(axes, index, model, entry, 1, 3)
    aim = entries["oracle"]
    if verdict == "no oracle":
        axes.text(1, 0.75, verdict, ha="center", va="center", fontsize=12)
        axes.set_xlabel("the attack cannot be checked\ndashed: 0.5, guessing")
    elif aim is not None:
        axes.axhline(aim["value"], color=COLORS["oracle"], linewidth=1, linestyle=":", zorder=0)
        words = {"too few": "too few to judge", "outside": "* 0.5 is outside the oracle's interval"}
        axes.set_xlabel(f"forget against {aim['count']} non-members\n{words.get(verdict, 'dashed: 0.5, guessing')}")


def _losses(axes: Axes, tables: Tables, model: str, edges: np.ndarray, height: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    loss, subsets = _clip(tables.of(model).loss, edges), tables.subsets()
    groups = {"forget": (COLORS[model], True), "nonmembers": ("0.35", False)}
    for name, (color, filled) in groups.items():
        chosen = loss[subsets[name]]
        if not len(chosen):
            continue
        weights = np.full(len(chosen), 100 / len(chosen))
        words = f"{'forget' if filled else 'non-members'} ({len(chosen)})"
        style: dict[str, Any] = (
            {"histtype": "stepfilled", "alpha": 0.45}
            if filled
            else {"histtype": "step", "linewidth": 1.6, "linestyle": "--"}
        )
        axes.hist(chosen, edges.tolist(), weights=weights, color=color, label=words, **style)
    axes.set(xscale="log", xlabel="loss (nats)", ylim=(0, height), title=f"Losses, {model}")
    if edges[-1] < FEW_TENFOLDS * edges[0]:  # otherwise the labels overlap
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _clip(loss: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.clip(np.nan_to_num(loss, nan=edges[-1]), edges[0], edges[-1])


def _loss_row(row: list[Axes], tables: Tables) -> None:
    """Draw histograms on shared axes; losses below 1e-6 nats or not finite are drawn at the edges."""
    subsets = tables.subsets()
    chosen = subsets["forget"] | subsets["nonmembers"]
    models = [model for model in COLORS if model != "oracle" or tables.oracles]
    losses = np.concatenate([tables.of(model).loss[chosen] for model in models])
    losses = np.clip(losses[np.isfinite(losses)], 1e-6, 1e6)
    low, high = (losses.min(), losses.max()) if len(losses) else (0.1, 1.0)
    edges = np.geomspace(low * 0.999, max(high, low * 10) * 1.001, 31)
    height = 5.0
    for model in models:
        clipped = _clip(tables.of(model).loss, edges)
        for name in ("forget", "nonmembers"):
            counts = np.histogram(clipped[subsets[name]], edges)[0]
            height = max(height, 100 * counts.max() / max(counts.sum(), 1))
    for axes, model in zip(row, COLORS, strict=True):
        if model in models:
            _losses(axes, tables, model, edges, height * 1.3)
        else:
            axes.text(0.5, 0.5, "no oracle", ha="center", va="center", fontsize=12)
            axes.set(xticks=[], yticks=[], title=f"Losses, {model}")
    row[0].set_ylabel("share of utterances (%)")


def comparison_plot(result: Mapping[str, Any], title: str | None, path: Path, tables: Tables | None = None) -> Path:
    """Draw accuracies and membership AUC of the three models to a PNG, and with `tables` also their losses.

    result: from `write_result`. The oracle, which perfect forgetting would match, is the reference line. Losses are of
    forget and non-members. Notes are below the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    said = [*(result.get("flags") or {}).values(), *footnotes(result)]
    notes = [line for note in said for line in textwrap.wrap(note, NOTE_WIDTH)]
    heights = [4.6, 3.4] if tables is not None else [4.8]  # inches
    heights += [NOTE_LINE * len(notes)] if notes else []
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), 6, height_ratios=heights)
    accuracies, attack = figure.add_subplot(grid[0, :4]), figure.add_subplot(grid[0, 4:])
    _accuracies(accuracies, result["comparison"])
    _attack(attack, result)
    figure.legend(*accuracies.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    if tables is not None:
        _loss_row([figure.add_subplot(grid[1, 2 * index : 2 * index + 2]) for index in range(3)], tables)
    if notes:
        foot = figure.add_subplot(grid[-1, :])
        foot.text(0, 1, "\n".join(notes), fontsize=8.5, va="top", transform=foot.transAxes)
        foot.axis("off")
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title or describe(result), fontsize=13, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary, dpi=130, metadata={"Description": " ".join([attack_sentence(result), *said])})
    return temporary.replace(path)
