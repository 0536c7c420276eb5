"""The command line of a live flow over a flow that reads nothing: what stands around flows, run as real processes."""

from __future__ import annotations

import os
import time

from flows.cli import app
from flows.cli import main as weir
from flows.live_cli import add_flow
from flows.live_process import LiveProcess
from schemas.errors import StreamError


def _idle(process: LiveProcess) -> None:
    """Counts time until it is to stop; in the process that FAIL_IN names it fails."""
    number = process.member.number if process.member else 0
    process.metrics.set_ready("state", ready=True, why="open")
    process.metrics.set_ready("inputs", ready=True, why=f"process {number}")
    process.metrics.set_ready("outputs", ready=True, why="open")
    if os.environ.get("FAIL_IN") == str(number):
        message = "the test wants this process to fail"
        raise StreamError(message)
    while not process.run.stop.wait(0.05):
        process.run.pulse.beat("idle")
        if os.environ.get("HANG"):
            time.sleep(600)


def main() -> None:
    """Entry point."""
    add_flow(app, "idle", "Read nothing.", _idle, "tests.flows.live_program")
    weir()


if __name__ == "__main__":
    main()
