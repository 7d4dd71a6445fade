"""Warm commands answer as a new interpreter does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import warm

PROGRAMS = {
    "end": "print('one'); print('two', end='')",
    "code": "import sys; sys.exit(7)",
    "sentence": "import sys; print('before'); sys.exit('It is wrong.')",
    "error": "print('before'); raise ValueError('It is wrong.')",
    "place": "import os, sys; print(os.getcwd(), os.environ['GIVEN'], sys.argv, __name__, __file__, sys.path[0])",
    "input": "import sys; print(repr(sys.stdin.read()))",
    "exit handlers": "import atexit, sys; [atexit.register(print, word) for word in 'ab']; sys.exit(3)",
    "thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "module": "import json.tool; print(json.tool.__name__)",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_fork_answers_as_a_new_interpreter(name: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[name])
    words, environment = [str(program), "a word"], {**os.environ, "GIVEN": "here"}
    options = {"cwd": tmp_path, "env": environment, "timeout": 60}
    ours = warm.run(words, **options)
    theirs = subprocess.run(
        [sys.executable, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert ours.stderr.splitlines()[-1:] == theirs.stderr.splitlines()[-1:]


def test_a_module_runs_with_the_folder_it_is_run_in(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import sys; print(sys.argv[1:], __name__)")
    done = warm.run(["-m", "mine", "a word"], tmp_path, os.environ, timeout=60)
    assert (done.returncode, done.stdout) == (0, "['a word'] __main__\n"), done.stderr


def test_no_command_leaves_anything_to_the_next(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text("import os, sys; os.environ['LEFT'] = 'x'; sys.path.append('left')")
    (tmp_path / "second.py").write_text("import os, sys; print('LEFT' in os.environ, 'left' in sys.path)")
    first, second = (
        warm.run([str(tmp_path / name)], tmp_path, os.environ, timeout=60) for name in ("first.py", "second.py")
    )
    assert first.returncode == 0 and second.stdout == "False False\n"


def test_a_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(600)")
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run([str(tmp_path / "slow.py")], tmp_path, os.environ, timeout=1)
    (tmp_path / "next.py").write_text("print('next')")
    assert warm.run([str(tmp_path / "next.py")], tmp_path, os.environ, timeout=60).stdout == "next\n"
