"""Writes the small state directory that later releases must still be able to open.

    python -m tests.state.make_layout tests/state/data/layout-1

Run it once for a layout, by the release that introduced it, and commit what it writes; never again for that layout.
What it holds comes from the tests' own traffic generator: no real payment.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.profile import load_profile
from flows.replay import ReplayOptions, run_replay
from flows.source import Run
from operators.record_formats import format_of
from schemas.validate import Limits
from state.api import StepStore
from state.layout import LAYOUT
from state.shards import shard_names
from state.store import StateHome, StateOptions
from tests.flows.traffic import decisions, write_events, write_profile

STEPS = ("seen", "account", "device", "merchant", "pair", "decide")
LEDGER = ("ledger-decisions", "ledger")
NOW_US = 1_775_000_000_000_000
PAYMENTS = 60
WAYWARD = ("LOG", "OPTIONS-", "LOCK", "IDENTITY")
"""Files that RocksDB writes anew: they tell the machine's paths and weigh more than the rest."""


def told(store: StepStore) -> dict[str, object]:
    """How many records a store holds, what they are all together, and some keys."""
    records = store.scan(b"", None, 100_000)
    digest = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for record in records for part in record))
    return {"records": len(records), "sha256": digest.hexdigest(), "keys": [key.hex() for key, _ in records[::20]]}


def write(directory: Path, work: Path) -> None:
    """Replay `PAYMENTS` payments over one shard; keep the state and what it must give back."""
    events = write_events(work / "events", payments=PAYMENTS, hours=6.0, seed=5)
    profile = write_profile(work / "profile")
    run = Run()
    options = ReplayOptions(
        events=events, out=work / "out", state=work / "state", batch=100, epoch=timedelta(seconds=60),
        limits=Limits(), tokeniser=None, now_us=NOW_US, shards=1,
    )  # fmt: skip
    run_replay(load_profile(profile), options, run)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(work / "state" / "shards", directory)
    expected: dict[str, dict[str, dict[str, object]]] = {}
    with StateHome(work / "state" / "shards", StateOptions(), None, format_of) as home:
        for shard, step in [*((shard_names(1)[0], step) for step in STEPS), LEDGER]:
            store = home.open(shard, step, 1)
            expected.setdefault(shard, {})[step] = told(store)
    windows: dict[str, dict[str, Any]] = {}
    for one in decisions(work / "out"):  # all of one day, so a window of 24 h holds every payment that enters it
        facts = one["features"]
        if one["duplicate"] or facts["payment_type"] not in ("purchase", "verification"):
            continue
        window = windows.setdefault(one["account_id"], {"at": "", "count": 0, "sum": 0.0})
        window["at"] = max(window["at"], one["event_time"])
        window["count"] += 1
        window["sum"] += facts["amount"]
    content = {"layout": LAYOUT, "stores": expected, "windows": windows}
    (directory / "expected.json").write_text(json.dumps(content, indent=1) + "\n")
    for path in directory.rglob("*"):
        if path.name.startswith(WAYWARD):
            path.unlink()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        write(Path(sys.argv[1]), Path(made))
