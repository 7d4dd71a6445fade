"""Keep recently decoded files, for formats that can only be decoded as a whole."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from speechforget.data.audio.files import Whole, read_pcm

ROOM = 1 << 25  # samples, 64 MB


class Remembered:
    """Decode whole files, once for all threads that ask at the same time, and keep the last ones.

    room: number of samples to keep in all. A longer file is given to the waiting threads and not kept.
    decode: the function that reads a file.
    """

    def __init__(self, room: int = ROOM, decode: Whole = read_pcm) -> None:
        self.room, self.decode = room, decode
        self._lock, self._held = Lock(), 0
        self._files: OrderedDict[tuple[Path, int, int, int], Future[NDArray[np.int16]]] = OrderedDict()

    def __call__(self, path: Path, sample_rate: int) -> NDArray[np.int16]:
        """Return what `read_pcm` returns. A file that has changed is decoded again."""
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
