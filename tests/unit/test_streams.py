"""Batches hold the right sound, in orders and with draws that depend on seeds alone."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from speechforget.batch import Batch, Pair
from speechforget.data.batches.augment import Augment
from speechforget.data.batches.prefetch import prefetch
from speechforget.data.batches.sample_sources import Mapped
from speechforget.data.batches.streams import Paired, Sources, Stream, Turns
from speechforget.data.batches.waveforms import Waveforms

SAMPLES = 50


@pytest.fixture
def lengths() -> np.ndarray:
    return np.array([30, 50, 80, 10, 120, 7], dtype=np.int64)


@pytest.fixture
def waveforms(lengths: np.ndarray) -> Waveforms:
    offset = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    flat = np.concatenate(
        [
            np.full(length, (i + 1) * 1000, dtype=np.int16) + np.arange(length, dtype=np.int16)
            for i, length in enumerate(lengths)
        ]
    )
    return Waveforms(Mapped(flat, offset), lengths, SAMPLES)


def test_gather_crops_the_middle_and_pads_the_end(waveforms: Waveforms, lengths: np.ndarray) -> None:
    rows = np.array([5, 0, 4, 3, 2, 1])
    crops, heard = waveforms.gather(rows)
    assert crops.shape == (6, SAMPLES) and crops.dtype == torch.float32
    for crop, length, row in zip(crops * 32768, heard, rows, strict=True):
        assert length == min(lengths[row], SAMPLES)
        start = max(lengths[row] - SAMPLES, 0) // 2
        assert torch.equal(crop[:length], torch.arange(start, start + length, dtype=torch.float32) + (row + 1) * 1000)
        assert not crop[length:].any()


def test_gather_reaches_both_ends(waveforms: Waveforms) -> None:
    first, _ = waveforms.gather(np.array([4, 4]), np.array([0.0, 1.0]))
    assert first[0, 0] * 32768 == 5000
    assert first[1, -1] * 32768 == 5119


def test_a_corpus_shorter_than_the_crop() -> None:
    waveforms = Waveforms(Mapped(np.array([1, 2, 3], dtype=np.int16), np.array([0])), np.array([3]), SAMPLES)
    crops, lengths = waveforms.gather(np.array([0]))
    assert lengths.tolist() == [3] and (crops[0, :4] * 32768).tolist() == [1, 2, 3, 0]


def make_sources(waveforms: Waveforms) -> Sources:
    rows = {"train": np.arange(6), "forget": np.array([1, 4]), "retain": np.array([0, 2, 3, 5])}
    return Sources(waveforms, np.arange(6) % 3, rows)


def numbers(stream: Stream) -> list[int]:
    return torch.cat([batch.rows for batch in stream]).tolist()


def test_a_shuffled_stream_is_a_permutation_that_its_salt_decides(waveforms: Waveforms) -> None:
    sources = make_sources(waveforms)
    rows = sources.rows["train"]
    first, again, other = (numbers(sources.shuffled(rows, 4, (0, "train", epoch))) for epoch in (0, 0, 1))
    assert first == again and sorted(first) == list(range(6)) and first != other


def test_the_order_does_not_depend_on_the_batch_size_or_on_how_rows_are_listed(waveforms: Waveforms) -> None:
    sources = make_sources(waveforms)
    assert numbers(sources.shuffled(np.arange(6), 4, (0,))) == numbers(sources.shuffled(np.arange(6)[::-1], 1, (0,)))


@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize("first", [None, 1, 2, 6])
def test_a_first_batch_may_be_smaller(waveforms: Waveforms, first: int | None, bucketed: bool) -> None:
    rows, labels = np.arange(6), np.zeros(6, dtype=np.int64)
    stream = Stream(
        waveforms,
        labels,
        labels.astype(bool),
        rows,
        batch_size=6 if first == 6 else 3,
        salt=(0,),
        bucketed=bucketed,
        first=first,
    )
    sizes = [len(batch.rows) for batch in stream]
    assert sizes == {None: [3, 3], 1: [1, 3, 2], 2: [2, 3, 1], 6: [6]}[first] or (
        bucketed and sorted(sizes[1:]) == sorted([3, 3 - (first or 0)])
    )
    assert len(stream) == len(sizes) and sizes[0] == (first or 3)
    assert sorted(row for batch in stream for row in batch.rows.tolist()) == rows.tolist()


def test_batches_carry_labels_and_the_request(waveforms: Waveforms) -> None:
    batch = next(iter(make_sources(waveforms).ordered("train", 6)))
    assert batch.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.forget.tolist() == [False, True, False, False, True, False]
    assert [len(batch.rows) for batch in make_sources(waveforms).ordered("train", 4)] == [4, 2]


def test_a_pair_starts_its_shorter_half_again_in_another_order(waveforms: Waveforms) -> None:
    sources = make_sources(waveforms)
    forget = sources.shuffled(sources.rows["forget"], 1, (3, "forget"))
    retain = sources.shuffled(sources.rows["retain"], 1, (3, "retain"))
    pairs = list(Paired(forget, retain, 24))
    assert len(pairs) == 24 and all(isinstance(pair, Pair) for pair in pairs)
    rounds = [tuple(int(pair.retain.rows) for pair in pairs[start : start + 4]) for start in range(0, 24, 4)]
    assert all(sorted(round_) == [0, 2, 3, 5] for round_ in rounds)
    assert len(set(rounds)) > 1


def halves_of(steps: Paired | Turns) -> list[Batch | None]:
    return [half for step in steps for half in (step if isinstance(step, Pair) else [step])]


def test_pairs_and_turns_do_not_depend_on_how_many_batches_are_made_at_once(
    waveforms: Waveforms, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = make_sources(waveforms)
    augmented = Sources(waveforms, sources.labels, sources.rows, Augment(shift=0.2, noise=0.7).with_noise(None))
    forget = augmented.shuffled(sources.rows["forget"], 1, (3, "forget"))
    retain = augmented.shuffled(sources.rows["retain"], 3, (3, "retain"))
    for steps in (
        Paired(forget, retain, 11),
        Paired(forget, retain, 7, again=False),
        Turns(forget, retain, 11, 2),
        Turns(forget, retain, 3, 1),
    ):
        found = []
        for samples in (1, 2**22):
            monkeypatch.setattr("speechforget.data.batches.streams.SAMPLES_AT_ONCE", samples)
            found.append(halves_of(steps))
        assert len(found[0]) == len(found[1]) > len(steps) - 1
        for one, other in zip(*found, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert torch.equal(one.rows, other.rows) and all(map(torch.equal, one.inputs, other.inputs))


def test_buckets_hold_every_row_once_and_cut_the_padding(waveforms: Waveforms) -> None:
    fixed = make_sources(waveforms)
    bucketed = Sources(waveforms, fixed.labels, fixed.rows, bucketed=True)
    rows = fixed.rows["train"]
    for stream, plain in (
        (bucketed.shuffled(rows, 2, (0,)), fixed.shuffled(rows, 2, (0,))),
        (bucketed.sharded("train", 2), fixed.sharded("train", 2)),
    ):
        assert len(stream) == len(plain) and sorted(numbers(stream)) == list(range(6))
        assert [len(batch.rows) for batch in stream] == [2, 2, 2]
        whole = {
            int(row): (sound, int(length))
            for batch in plain
            for row, sound, length in zip(batch.rows, *batch.inputs, strict=True)
        }
        for batch in stream:
            sound, lengths = batch.inputs
            assert lengths.max() <= sound.shape[1] <= lengths.max() + 3  # a twentieth of 50 samples
            for row, mine, length in zip(batch.rows.tolist(), sound, lengths.tolist(), strict=True):
                assert length == whole[row][1] and torch.equal(mine, whole[row][0][: len(mine)])
    assert numbers(bucketed.shuffled(rows, 2, (0,))) != numbers(bucketed.shuffled(rows, 2, (1,)))
    spread = [int(batch.inputs[1].max() - batch.inputs[1].min()) for batch in bucketed.shuffled(rows, 2, (0,))]
    assert max(spread) <= 20


def test_buckets_are_shared_out_like_other_batches(waveforms: Waveforms) -> None:
    plain = make_sources(waveforms)
    whole, *parts = (
        Sources(waveforms, plain.labels, plain.rows, share=share, bucketed=True) for share in ((0, 1), (0, 2), (1, 2))
    )
    streams = [sources.shuffled(plain.rows["train"], 4, (5,)) for sources in (whole, *parts)]
    for batch, first, second in zip(*streams, strict=True):
        assert sorted(batch.rows.tolist()) == sorted(first.rows.tolist() + second.rows.tolist())
        assert batch.inputs[0].shape[1] == first.inputs[0].shape[1] == second.inputs[0].shape[1]


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_batches_made_ahead_are_the_same(waveforms: Waveforms, depth: int) -> None:
    plain = make_sources(waveforms)
    sources = Sources(waveforms, plain.labels, plain.rows, depth=depth)
    assert numbers(sources.shuffled(plain.rows["train"], 4, (0,))) == numbers(
        plain.shuffled(plain.rows["train"], 4, (0,))
    )
    pairs = [
        Paired(*(kind.shuffled(kind.rows[name], 1, (0, name)) for name in ("forget", "retain")), 5)
        for kind in (plain, sources)
    ]
    assert [pair.retain.rows.tolist() for pair in pairs[0]] == [pair.retain.rows.tolist() for pair in pairs[1]]


def test_what_goes_wrong_ahead_is_raised_and_nothing_waits_for_ever() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    items = prefetch(failing(), 3)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)
    endless = prefetch(itertools.count(), 2)
    assert [next(endless) for _ in range(3)] == [0, 1, 2]
    endless.close()
