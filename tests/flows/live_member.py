"""One process of a live flow, for tests: `python -m tests.flows.live_member '{"profile": ..., ...}'`."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.exits import die, end_on_errors, exit_code
from flows.live import LiveOptions, run_live
from flows.profile import load_profile
from flows.source import Run
from flows.stopping import StopSignals
from flows.watchdog import Watchdog
from schemas.errors import WeirError


def options_of(told: dict[str, Any]) -> LiveOptions:
    process = told.get("process")
    return LiveOptions(
        state=Path(told["state"]),
        inputs=told["inputs"],
        outputs=told["outputs"],
        shards=4,
        epoch=timedelta(seconds=told.get("epoch_s", 0.3)),
        batch=told.get("batch", 200),
        kafka=told.get("kafka", {}),
        start=told.get("start", {}),
        group=told.get("group", "weir-decide"),
        transactional=told.get("transactional", False),
        transaction_s=told.get("transaction_s", 0.1),
        process=(process[0], tuple(process[1])) if process else None,
        refresh_s=told.get("refresh_s", 1.0),
    )


def main() -> None:
    told = json.loads(sys.argv[1])
    run = Run()
    with StopSignals(10.0, "weir") as stops:
        run.stop = stops.requested
        undo = end_on_errors("weir")
        try:
            with Watchdog(run.pulse, run.stats, told.get("no_progress_after_s", 60.0), "weir"):
                run_live(load_profile(Path(told["profile"])), options_of(told), run)
        except WeirError as error:
            die(f"weir: {error}", exit_code(error))
        finally:
            undo()


if __name__ == "__main__":
    main()
