"""One process of a learning flow, for tests: `python -m tests.flows.learn_member '{"profile": ..., ...}'`.

With `artefacts` (URL) and `keys` (file) it announces releases, champion and all.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.announce import Announcer
from flows.exits import die, end_on_errors, exit_code
from flows.learn import LEARNS, LearnOptions, run_learn
from flows.live import LiveOptions
from flows.profile import Profile, load_profile
from flows.releases import believed
from flows.source import Run
from flows.stopping import StopSignals
from flows.watchdog import Watchdog
from operators.releases import Release
from schemas.errors import WeirError
from schemas.signing import SigningKeys
from state.artefacts import ArtefactStore


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
                run_learn(profile, options, _learn(told, profile), run)
        except WeirError as error:
            die(f"weir: {error}", exit_code(error))
        finally:
            undo()


def _learn(told: dict[str, Any], profile: Profile) -> LearnOptions:
    unmatched_us = round(told.get("unmatched_s", 3600.0) * 1e6)
    if "artefacts" not in told:
        return LearnOptions(unmatched_us)
    keys = SigningKeys.from_file(Path(told["keys"]))
    announce = Announcer(ArtefactStore(told["artefacts"], 1 << 20), keys, profile.features)

    def believe(payload: bytes | dict[str, Any], offset: int) -> Release | None:
        return believed(payload, offset, keys, lambda reason, why: die(f"{reason}: {why}", 1))

    return LearnOptions(unmatched_us, 1_000_000, announce, believe=believe)


if __name__ == "__main__":
    main()
