"""Run a worker process: `distributed.worker` with the stages that it can build.

python -m speechforget.stages.worker RANK HOST PORT        (started by `distributed.rendezvous`, never by hand)
"""

import sys
from collections.abc import Mapping
from typing import Any

from speechforget.distributed.protocol import Order
from speechforget.distributed.worker import work


def build(order: Order) -> None:
    """Build an artefact; torch is loaded for the first one only."""
    from speechforget.stages.build import build

    build(order)


def prepare(trainer: Mapping[str, Any]) -> None:
    """Choose the device of this process."""
    from speechforget.training.device import start_process

    start_process(trainer)


if __name__ == "__main__":
    sys.exit(work(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), build, prepare))
