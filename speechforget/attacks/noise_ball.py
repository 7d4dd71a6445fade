"""Correctness in a noise ball: is a forgotten utterance still recognised when noise is added to it?

After "The Unseen Threat: Residual Knowledge in Machine Unlearning under Perturbed Samples", NeurIPS 2025,
arXiv 2601.22359. It divides by the oracle's share; we report shares, because the oracle's is near 0 for a forgotten
class. The noise is white at fixed signal-to-noise ratios instead of uniform in a ball.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from speechforget.attacks.base import PREFIX, Rows, Subject, check_finite
from speechforget.config.ranges import whole
from speechforget.evaluation.intervals import wilson
from speechforget.evaluation.tables import Value, missing
from speechforget.seeding import seed_from


class NoiseBall:
    """Predict forget with white noise. snr: in dB, over the length of an utterance. draws: of noise, per utterance.

    most: utterances of forget, drawn by the seed where there are more.
    """

    def __init__(self, *, snr: Sequence[float] = (30, 20, 10), draws: int = 10, most: int = 500) -> None:
        whole({"draws": draws}, "draws", 1, PREFIX)
        self.snr, self.draws, self.most = tuple(snr), draws, most

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Predict forget under white noise.

        Explanation:
            values: noise_<ratio>db_accuracy_forget
            meaning: How often a forgotten utterance is recognised when noise is added to it. A method that only turns
                the answer at the exact recordings leaves it intact around them.
            formula: mean over utterances of the share of noise draws with a right prediction; white noise at 30, 20 and
                10 dB below the utterance.
            unit: a share in [0, 1] with a 95 % Wilson interval over utterances, because draws are not independent.
            aim: the oracle's value. Above: knowledge is left; below: the surroundings were damaged, too.
            fooled by: a model that is fragile under any noise; noise is white, while real noise is not.
            source: after Residual Knowledge, NeurIPS 2025, arXiv 2601.22359, which divides by the oracle's share.
        """
        rows = subject.drawn(subject.rows["forget"], self.most, "noise ball")
        names = [f"noise_{snr:g}db_accuracy_forget" for snr in self.snr]
        if not len(rows):
            return dict.fromkeys(names, missing("the request is empty"))
        right = np.zeros((len(self.snr), len(rows)))
        with torch.inference_mode():
            for draw in range(self.draws):
                self._add(subject, rows, draw, right)
        return {
            name: Value(share, *wilson(share, len(rows)), len(rows))
            for name, share in zip(names, (right / self.draws).mean(axis=1).tolist(), strict=True)
        }

    def _add(self, subject: Subject, rows: Rows, draw: int, right: np.ndarray) -> None:
        """Count the right predictions with one draw of noise: right (ratios, utterances), changed in place."""
        start = 0
        for batch in subject.batches(rows):
            waveform, lengths = batch.inputs[:2]
            noise = white(batch.rows.cpu().numpy(), waveform.shape[1], subject.seed, draw).to(waveform)
            noise = noise * (torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None])
            unit = torch.linalg.vector_norm(waveform, dim=1) / torch.linalg.vector_norm(noise, dim=1).clamp(min=1e-12)
            end = start + len(waveform)
            for index, snr in enumerate(self.snr):
                louder = waveform + noise * (unit * 10 ** (-snr / 20))[:, None]
                logits = subject.classifier(louder, lengths).logits.float()
                check_finite(logits.cpu().numpy())
                right[index, start:end] += (logits.argmax(1) == batch.labels).cpu().numpy()
            start = end


def white(rows: Rows, samples: int, *salt: int) -> Tensor:
    """Draw standard normal noise (len(rows), samples) float32; row i depends only on rows[i] and the salt."""
    drawn = [
        np.random.default_rng(seed_from("white noise", *salt, int(row))).standard_normal(samples, dtype=np.float32)
        for row in rows
    ]
    return torch.from_numpy(np.stack(drawn))
