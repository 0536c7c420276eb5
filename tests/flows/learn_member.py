"""One process of a learning flow, for tests: `python -m tests.flows.learn_member '{"profile": ..., ...}'`."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

from flows.exits import die, end_on_errors, exit_code
from flows.learn import LEARNS, LearnOptions, run_learn
from flows.live import LiveOptions
from flows.profile import load_profile
from flows.source import Run
from flows.stopping import StopSignals
from flows.watchdog import Watchdog
from schemas.errors import WeirError


def main() -> None:
    told = json.loads(sys.argv[1])
    run = Run()
    with StopSignals(10.0, "weir") as stops:
        run.stop = stops.requested
        undo = end_on_errors("weir")
        options = LiveOptions(
            state=Path(told["state"]),
            inputs=told["inputs"],
            outputs=told["outputs"],
            shards=4,
            epoch=timedelta(seconds=0.3),
            batch=told.get("batch", 200),
            group="weir-learn",
            refresh_s=1.0,
            sides=LEARNS,
            settle_s=told.get("settle_s", 0.3),
        )
        try:
            with Watchdog(run.pulse, run.stats, 60.0, "weir"):
                profile = load_profile(Path(told["profile"]))
                run_learn(profile, options, LearnOptions(round(told.get("unmatched_s", 3600.0) * 1e6)), run)
        except WeirError as error:
            die(f"weir: {error}", exit_code(error))
        finally:
            undo()


if __name__ == "__main__":
    main()
