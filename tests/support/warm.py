"""Run commands of the project without the seconds that every new process takes to import torch.

`run` is subprocess.run for `python FILE ...` and `python -m MODULE ...`, in a fork of a process that has imported the
libraries (see `warm_server`). A test whose point is the start of a process, or what it imports, starts its own.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

Done = subprocess.CompletedProcess[str]


@functools.cache
def server() -> subprocess.Popen[bytes]:
    """Start the process that the commands of this process are forked from; it ends when this process does."""
    line = [sys.executable, str(Path(__file__).with_name("warm_server.py"))]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    atexit.register(process.stdin.close)  # type: ignore[union-attr]
    return process


def answer(process: subprocess.Popen[bytes], seconds: float | None) -> int | None:
    """Return the next number that the server prints, or None if it does not come in time."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        return None
    line = process.stdout.readline()
    assert line, "the server of warm commands has ended"
    return int(line)


def run(words: list[str], cwd: Path, env: Mapping[str, str], timeout: float) -> Done:
    """Run `python words` to its end. Raises subprocess.TimeoutExpired after `timeout` seconds, and kills it."""
    process = server()
    assert process.stdin is not None
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("out", "err")]
        for output in outputs:
            output.touch()
        out, err = map(str, outputs)
        request = {"words": words, "folder": str(cwd), "environment": dict(env), "out": out, "err": err}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        command = answer(process, None)
        code = answer(process, timeout)
        if code is None:
            os.kill(command, signal.SIGKILL)  # type: ignore[arg-type]
            answer(process, None)
        printed = [output.read_text() for output in outputs]
    if code is None:
        raise subprocess.TimeoutExpired(words, timeout, *printed)
    return subprocess.CompletedProcess(words, code, *printed)
