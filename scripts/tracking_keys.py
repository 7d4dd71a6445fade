"""The keys that runs log to W&B: the table of docs/tracking.md.

python scripts/tracking_keys.py            writes it into the page
python scripts/tracking_keys.py --print    prints it
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from speechforget.store import write_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tracking.md"
BEGIN, END = "<!-- scripts/tracking_keys.py: begin -->", "<!-- scripts/tracking_keys.py: end -->"
OWN = re.compile(r"_(runtime|step|timestamp|wandb)(/|$)")  # what W&B itself adds to every run
TYPE = "/_type"  # a detail of every table and image


class Key(NamedTuple):
    """Describe keys. name: a word in angle brackets stands for several. runs: by job type. needs: when it is logged."""

    name: str
    runs: str
    meaning: str
    needs: str = ""

    @property
    def pattern(self) -> str:
        """Return an expression for the keys."""
        words = {"<set>": "(forget|retain|validation)", "<model>": "(original|oracle|unlearned)"}
        parts = re.split(r"(<\w+>)", self.name)
        return "".join(words.get(part, r"[^/]+") if part.startswith("<") else re.escape(part) for part in parts)


KEYS = (
    Key("epoch", "original, oracle, unlearned", "the epoch, or the pass, from 0"),
    Key("trainer/global_step", "original, oracle, unlearned", "optimiser steps so far; the axis of these curves"),
    Key("train/loss", "original, oracle", "mean cross-entropy of the epoch, in nats, with augmentation"),
    Key("train/accuracy", "original, oracle", "share of right answers of the epoch, with augmentation"),
    Key(
        "validation_forgotten/accuracy",
        "oracle",
        "accuracy on validation recordings of forgotten classes",
        "task=class",
    ),
    Key("unlearn/<stream>_loss", "unlearned", "mean loss of the method in passes over that stream"),
    Key("<set>/accuracy", "original, oracle (validation), unlearned", "accuracy after the pass, as a share"),
    Key("<set>/loss", "unlearned", "mean cross-entropy after the pass, in nats"),
    Key("pass/number", "result", "passes so far; 0 is the original; the axis of the next four"),
    Key("pass/<set>_accuracy", "result", "the curve of the method once more"),
    Key("pass/<set>_loss", "result", "the curve of the method once more, in nats"),
    Key("pass/<set>_accuracy_oracle", "result", "the level of the oracle on the same utterances", "an oracle"),
    Key("pass/<set>_loss_oracle", "result", "the level of the oracle on the same utterances, in nats", "an oracle"),
    Key("ranking/gap", "result", "mean absolute gap in accuracy on forget, retain and test, in points", "an oracle"),
    Key("ranking/passes", "result", "samples that the method saw; forward and backward count as three"),
    Key("ranking/seconds", "result", "wall time of the method"),
    Key("ranking/objective", "result", "what a search minimises (`evaluation.objective`)"),
    Key("<model>/<metric>", "result", "each number of the comparison (metrics.md)"),
    Key("gap/<metric>", "result", "unlearned minus oracle", "an oracle"),
    Key("band/<metric>_low", "result", "smallest value with an oracle in the model's place", "three oracles"),
    Key("band/<metric>_high", "result", "largest value with an oracle in the model's place", "three oracles"),
    Key("audit/<figure>", "result", "a figure of the audit of the method (audit.md)", "evaluation=audit"),
    Key("audit/<figure>_low", "result", "lower end of its 95 % interval", "evaluation=audit"),
    Key("audit/<figure>_high", "result", "upper end of its 95 % interval", "evaluation=audit"),
    Key("audit/<figure>_null_low", "result", "lower end of the null: the middle 95 % of oracles", "evaluation=audit"),
    Key("audit/<figure>_null_high", "result", "upper end of the null", "evaluation=audit"),
    Key("audit/<figure>_p", "result", "its p-value", "evaluation=audit"),
    Key("audit_original/<figure>", "result", "the figure of the originals", "evaluation=audit"),
    Key("audit_oracle/<figure>", "result", "the figure of oracles in the models' place", "evaluation=audit"),
    Key("verdict/<question>", "result", "under, within, over or too little to tell"),
    Key("verdict/<question>_sentence", "result", "the answer in a sentence"),
    Key("comparison", "result", "table: every number of every model, with interval, gap and band"),
    Key("comparison plot", "result", "the image comparison.png", "a request that names nobody, or names=open"),
    Key("tables/verdict", "result", "table: question, word, sentence, strength"),
    Key("tables/audit", "result", "table: all figures of the audit", "evaluation=audit"),
    Key(
        "tables/audio", "result", "table: ten forgotten recordings with the answers of the models", "logger.audio=true"
    ),
    Key("charts/losses", "result", "losses of forget, holdout and retain under each model"),
    Key("charts/attack", "result", "ROC of the attack on the loss", "non-members"),
    Key("charts/relearning", "result", "accuracy on the rest of forget while some is learned again", "evaluation=full"),
    Key("charts/layers", "result", "what probes find in each layer, minus the oracle's", "evaluation=full"),
    Key("charts/forgotten", "result", "for what recordings of forgotten classes are taken", "task=class"),
    Key("charts/words", "result", "accuracy of each class minus the oracle's", "groups of enough recordings"),
    Key("charts/speakers", "result", "accuracy of each speaker minus the oracle's", "a corpus that names speakers"),
    Key("confusion/<model>", "result", "confusion matrix on test; with over 40 classes, those most confused"),
    Key("missing/<name>", "result", "why a chart of that name has no data"),
    Key("notes", "result", "caveats, which also head the page of the run"),
)


def described(name: str) -> Key | None:
    """Return the entry of a key that a run logged, of several the most special one; None if the table has none."""
    return max((key for key in KEYS if re.fullmatch(key.pattern, name)), key=_written_out, default=None)


def _written_out(key: Key) -> int:
    """Count the letters of a key that stand for themselves."""
    return len(re.sub(r"<\w+>", "", key.name))


def plain(names: Iterable[str]) -> set[str]:
    """Return names of numbers, tables and charts, without what W&B adds: its own, and the details of each table."""
    own = [name for name in names if not OWN.match(name)]
    media = {name.removesuffix(TYPE) for name in own if name.endswith(TYPE)}
    return {name for name in own if name.rpartition("/")[0] not in media} | {_untabled(name) for name in media}


def _untabled(name: str) -> str:
    """Return the name of a chart, whose table W&B calls by that name and `_table`."""
    return name.removesuffix("_table")


def table() -> str:
    """Write the table in Markdown."""
    lines = ["| key | runs | meaning | needs |", "|---|---|---|---|"]
    lines += [f"| `{key.name}` | {key.runs} | {key.meaning} | {key.needs} |" for key in KEYS]
    return "\n".join(lines)


def page() -> str:
    """Return the page with the table between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Write the page, or print the table."""
    if sys.argv[1:] == ["--print"]:
        print(table())
    else:
        write_text(PAGE, page())


if __name__ == "__main__":
    main()
