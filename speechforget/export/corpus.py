"""Open the recordings of a result, without building anything, and take clips for checks from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from speechforget.data.batches.streams import Sources
from speechforget.data.batches.waveforms import Waveforms
from speechforget.data.requests.select import Request
from speechforget.errors import UserError
from speechforget.export.source import Source, Unsupported
from speechforget.stages.joined import request_of
from speechforget.stages.sources import make_waveforms, open_recordings, rows_of
from speechforget.stages.split import Data, split_corpus
from speechforget.store import Artefact, OneByOne, canonical
from speechforget.store.dry_run import NotMadeError, dry_run

CLIPS = 6  # recordings of a check, beside a short and a long one made of them
OF_CODE = {"code", "version"}  # inputs of a split that other code changes; its file is read, not made again


class Corpus(NamedTuple):
    """Hold the split recordings of a result, and its request as row numbers."""

    data: Data
    request: Request
    sources: Sources


class Clips(NamedTuple):
    """Hold recordings for checks, (samples,) each, and what they are."""

    sounds: list[Tensor]
    origin: str


class _Recorded(OneByOne):
    """Serve the split of a result from where it is, and build nothing."""

    def __init__(self, source: Source) -> None:
        self.splits = [node for node in source.nodes if node.stage == "split" and node.state == "done"]

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`. Raises Unsupported for recordings, or a way to split them, that no split records."""
        for node in self.splits:
            if _told(node.inputs or {}) == _told(canonical(dict(inputs))):
                return Artefact(node.folder, str(node.key), built=False)
        raise Unsupported("the recordings are not those of the run any more")


def _told(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in OF_CODE}


def open_corpus(source: Source) -> Corpus:
    """Open the recordings of a result where its caches still hold them; nothing is decoded or written.

    Raises Unsupported with the reason otherwise.
    """
    try:
        with dry_run():
            data = split_corpus(source.config, _Recorded(source))
    except NotMadeError:
        raise Unsupported("the decoded recordings of the run are not in its cache any more") from None
    except (UserError, OSError) as error:
        raise Unsupported(f"the recordings of the run cannot be opened: {str(error).rstrip('.')}") from None
    try:
        request = request_of(source.result, source.record, data.table)
    except UserError as error:
        raise Unsupported(f"the request of the result cannot be read: {str(error).rstrip('.')}") from None
    dataset = {**source.config["dataset"], "resident": "host"}
    waveforms = make_waveforms(dataset, data, open_recordings(dataset, data, None))
    return Corpus(data, request, Sources(waveforms, data.numbers, rows_of(data, request), windows=dataset["windows"]))


def clips_of(corpus: Corpus, width: int) -> Clips:
    """Take retained recordings of different lengths, and a shorter and a longer clip made of them."""
    retain = corpus.sources.rows["retain"]
    waveforms = corpus.sources.waveforms
    by_length = retain[np.argsort(waveforms.length[retain], kind="stable")]
    chosen = by_length[np.unique(np.linspace(0, len(by_length) - 1, CLIPS).astype(int))]
    sounds = [_whole(corpus, int(row)) for row in chosen]
    return Clips(_with_lengths(sounds, width), "recordings of the corpus that were retained")


def _whole(corpus: Corpus, row: int) -> Tensor:
    heard = corpus.sources.waveforms
    whole = Waveforms(heard.recordings, heard.length, int(heard.length[row]), heard.added)
    return whole.gather(np.array([row]))[0][0]


def made_clips(width: int, reason: str) -> Clips:
    """Make sounds of different lengths for checks where there are no recordings; reason: why there are none."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(width) / width
    tones = [torch.sin(2 * torch.pi * 40 * (number + 1) * time) * time.flip(0) for number in range(CLIPS)]
    noise = torch.randn(CLIPS, width, generator=generator)
    lengths = torch.linspace(width // 2, width, CLIPS).long().tolist()
    sounds = [(0.2 * tone + 0.05 * hiss)[:length] for tone, hiss, length in zip(tones, noise, lengths, strict=True)]
    return Clips(_with_lengths(sounds, width), f"generated sounds, because {reason}")


def _with_lengths(sounds: list[Tensor], width: int) -> list[Tensor]:
    """Add a clip much shorter than the classifier's window, and one longer."""
    joined = torch.cat([*sounds, sounds[0].repeat(1 + 2 * width // len(sounds[0]))])
    return [*sounds, sounds[-1][: max(width // 3, 1)], joined[: 2 * width + width // 5]]
