"""The picture of a sequence of requests: each request's figures after each later one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORDS = {"accuracy_forget": "accuracy on the request", "loss_forget": "loss, nats", "membership_auc": "attack AUC"}
# Okabe and Ito's palette suits every kind of colour vision; in grey the markers differ.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = "osD^vP"


def sequence_plot(told: Mapping[str, Any], path: Path) -> None:
    """Draw, for each figure, a line for each request over the steps; dashed: the oracles of the same requests."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    steps = len(told["requests"])
    for axes, (metric, words) in zip(figure.subplots(1, len(WORDS)), WORDS.items(), strict=True):
        for place, request in enumerate(told["requests"]):
            row = [cell for cell in told["matrix"] if (cell["request"], cell["metric"]) == (place + 1, metric)]
            style = {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place % len(MARKERS)]}
            label = f"{place + 1} {request['name'].partition('-after')[0]}"
            for model, line, more in (("unlearned", "-", {"label": label}), ("oracle", "--", {"alpha": 0.6})):
                shown = [(cell["after"], cell[model]) for cell in row if cell[model] is not None]
                axes.plot(*zip(*shown, strict=True), linestyle=line, **style, **more) if shown else None
        if metric != "loss_forget":  # shares
            axes.set_ylim(-0.04, 1.04)
        axes.set(title=words, xlabel="after request", xticks=range(1, steps + 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(steps, 3), frameon=False
    )
    figure.suptitle(f"{told['method']}, requests in turn (solid: unlearned, dashed: oracle)", x=0.01, ha="left")
    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary, dpi=130)
    temporary.replace(path)
