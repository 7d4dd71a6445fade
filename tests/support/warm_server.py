"""Fork a process that has imported the libraries, once for each command line that the standard input gives.

A request is a line of JSON: words, folder, environment, and the files for both outputs. The answers are the process
id, at once, and the exit code.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

# What a run imports of other projects, and what takes long to import. Each command imports the modules of the project.
LIBRARIES = ["hydra", "rich.console", "pandas", "torch", "lightning", "soundfile", "matplotlib.pyplot", "scipy.stats"]
LIBRARIES += ["sklearn.metrics", "sklearn.linear_model", "safetensors.torch"]


def become(request: dict[str, Any]) -> None:
    """Take the folder, environment and outputs of the request."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, (path, how) in enumerate(
        [(os.devnull, os.O_RDONLY), (request["out"], os.O_WRONLY), (request["err"], os.O_WRONLY)]
    ):
        opened = os.open(path, how)
        os.dup2(opened, number)
        os.close(opened)


def execute(words: list[str]) -> None:
    """Execute `python words` as the interpreter does."""
    path = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [str(Path.cwd() if words[0] == "-m" else Path(words[0]).parent), *path]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


class Ending:
    """End a fork after all exit handlers, and spare it the destruction of the libraries, which costs two seconds."""

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self.end)  # the first to be registered is the last to be called

    def end(self) -> None:
        if self.code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.code)

    def after(self, words: list[str]) -> None:
        """Execute a command and note its exit code."""
        self.code = 1
        try:
            execute(words)
            self.code = 0
        except SystemExit as ended:
            self.code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            raise


def next_command() -> list[str] | None:
    """Serve requests; return the words of one in its own process, and None at the end of the server."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    while line := sys.stdin.readline():
        request = json.loads(line)
        process = os.fork()
        if not process:
            answers.close()
            become(request)
            return request["words"]
        print(process, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), file=answers)
    return None


if __name__ == "__main__":
    from speechforget.training.runtime import settle

    ending = Ending()
    settle()
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # a collection in a fork would copy the memory of the libraries
    if (command := next_command()) is not None:
        ending.after(command)
