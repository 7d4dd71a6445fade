"""Write a poisoned request: the recordings whose forgetting hurts others most (`speechforget poison`).

It tests what an attacker could ask for, and whether you would notice (docs/adversarial.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from speechforget.cli.arguments import run_command
from speechforget.data.requests.draw import share_of
from speechforget.errors import UserError
from speechforget.training.runtime import settle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 after a user mistake, which one sentence explains."""
    settle()
    parser = argparse.ArgumentParser("speechforget poison", description=__doc__)
    parser.add_argument("result", type=Path, help="a result whose original is attacked; method=none is enough")
    parser.add_argument("ids", type=Path, help="new file for the request, an id a line: task.by=ids task.ids=FILE")
    parser.add_argument("--percent", type=float, default=5.0, help="of the training recordings (default: 5)")
    options = parser.parse_args(arguments)
    return run_command(lambda: _write(options.result, options.ids, options.percent))


def _write(result: Path, ids: Path, percent: float) -> int:
    if ids.exists():
        raise UserError(f"{ids} exists already: name a new file.")
    share = share_of(percent, "--percent") / 100
    from speechforget.attacks.common.poison import poison
    from speechforget.config.transcripts import is_text
    from speechforget.export.corpus import open_corpus
    from speechforget.export.source import Unsupported, read_source
    from speechforget.stages.attack import make_subject

    source = read_source(result, "original")
    if is_text(source.config):
        raise UserError("A poisoned request is chosen for classes, and this result is of transcripts: give another.")
    try:
        corpus = open_corpus(source)
    except Unsupported as error:
        raise UserError(f"No request can be chosen for {result}: {error}.") from None
    classifier = source.classifier.requires_grad_(requires_grad=True)
    subject = make_subject(classifier, source.config, corpus.data, corpus.request)
    trained = len(subject.rows["forget"]) + len(subject.rows["retain"])
    made = poison(subject, max(1, round(share * trained)))
    ids.write_text("".join(f"{name}\n" for name in corpus.data.table["id"].iloc[made.rows]), encoding="utf-8")
    print(
        f"{ids}: {len(made.rows)} of {trained} training recordings. Predicted harm of forgetting them: "
        f"{made.predicted:.3g}, of a random request {made.random:.3g} on average."
    )
    return 0
