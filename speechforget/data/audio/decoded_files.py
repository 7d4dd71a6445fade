"""The files that were decoded last, for those that can only be read whole."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from speechforget.data.audio.files import Whole, read_pcm

ROOM = 1 << 25  # samples, which are 64 MB


class Remembered:
    """Decodes whole files, once however many threads ask at the same time, and keeps the last of them.

    room: samples that are kept in all; a file that is longer is given to those who wait for it and forgotten. decode: what reads a file.
    """

    def __init__(self, room: int = ROOM, decode: Whole = read_pcm) -> None:
        self.room, self.decode = room, decode
        self._lock, self._held = Lock(), 0
        self._files: OrderedDict[tuple[Path, int, int, int], Future[NDArray[np.int16]]] = OrderedDict()

    def __call__(self, path: Path, sample_rate: int) -> NDArray[np.int16]:
        """See `read_pcm`. A file that was changed since is decoded again."""
        status = path.stat()
        key = (path, sample_rate, status.st_size, status.st_mtime_ns)
        with self._lock:
            known = self._files.get(key)
            file = self._files.setdefault(key, Future())
            self._files.move_to_end(key)
        if known is None:
            self._decode(key, file)
        return file.result()

    def _decode(self, key: tuple[Path, int, int, int], file: Future[NDArray[np.int16]]) -> None:
        try:
            samples = self.decode(*key[:2])
        except BaseException as error:
            with self._lock:
                del self._files[key]
            file.set_exception(error)
            return
        with self._lock:
            file.set_result(samples)
            self._held += len(samples)
            for oldest in [old for old, held in self._files.items() if held.done()]:
                if self._held <= self.room:
                    return
                self._held -= len(self._files.pop(oldest).result())
