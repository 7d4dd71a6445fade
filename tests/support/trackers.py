"""Runs, messages and servers for tests of trackers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from speechforget.tracking.tracker import Run


def make_run(folder: Path) -> Run:
    return Run(folder, "k" * 64, "name", "group", "original", ["tag"], {"seed": 0})


def start_message(folder: Path, tracker: str, **changes: Any) -> dict[str, Any]:
    run = {
        "folder": str(folder),
        "key": "k" * 64,
        "name": "n" * 200,
        "group": "g" * 200,
        "stage": "original",
        "tags": ["t" * 77],
        "config": {},
    }
    return {
        "do": "start",
        "tracker": tracker,
        "project": "p",
        "entity": None,
        "mode": "offline",
        "names": "hashed",
        **run,
        **changes,
    }


def rows_of(epochs: int) -> list[dict[str, Any]]:
    return [
        {"do": "point", "number": epoch, "row": {"epoch": epoch, "step": 9 * epoch, "loss": 0.5}}
        for epoch in range(epochs)
    ]


@contextmanager
def server(answer: int | None, body: str = "{}") -> Iterator[str]:
    """A W&B server that gives one answer to all requests, or none."""
    closed = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if answer is None:
                closed.wait(60)
                return
            self.send_response(answer)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            closed.set()
            http.shutdown()
