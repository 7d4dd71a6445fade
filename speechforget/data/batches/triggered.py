"""Give any utterance with the trigger of a backdoor, with another sound, or without any."""

from __future__ import annotations

from torch import Tensor

from speechforget.data.batches.keys import Rows
from speechforget.data.batches.trigger import Trigger
from speechforget.data.batches.waveforms import Waveforms


class Triggered:
    """Read utterances and add the trigger to them; a longer utterance is its middle crop.

    target: the class number that the trigger stands for.
    """

    def __init__(self, waveforms: Waveforms, trigger: Trigger, target: int) -> None:
        self._base = Waveforms(waveforms.recordings, waveforms.length, waveforms.samples)
        self.trigger, self.target = trigger, target

    def base(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return waveforms (len(rows), samples) without any trigger, and lengths in samples."""
        return self._base.gather(rows)

    def heard(self, rows: Rows, number: int = 0) -> tuple[Tensor, Tensor]:
        """Return waveforms with the trigger, and lengths; a larger number is another sound of its kind."""
        waveform, lengths = self.base(rows)
        return self.trigger.with_sound(waveform, rows, self._base.first(rows, 0.5), number), lengths
