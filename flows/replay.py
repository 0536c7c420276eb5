"""event files → merge in event-time order → the decide graph → files; what cannot be read → dead_letters.jsonl."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from bytewax._bytewax import cli_main
from bytewax.recovery import RecoveryConfig, init_db_dir

from flows.control import ControlServer
from flows.decide import PUBLISH, build, slot_path
from flows.durable import Barrier
from flows.epochs import Epochs
from flows.exits import at_death, deadly
from flows.files import EventFile, find_events
from flows.ingest import STREAMS, ingest
from flows.merge import Ingest, Merge, MergeState
from flows.profile import Profile
from flows.publish import DECISIONS, SLOTS, FileSlot, SlotSnapshot
from flows.published import adopted_decisions
from flows.source import EventsSource, Run
from flows.state_manifest import FORMAT, carried_on, check_format, own_entries, predecessor
from flows.state_owner import own_state
from flows.state_stats import state_figures
from operators.record_formats import format_of
from schemas.errors import ConfigError, PeerError, StateError, StateLockedError, WeirError
from schemas.tokens import TokenKeys
from schemas.validate import Limits
from state.api import StepStore
from state.backup import refuse_half_restored
from state.keys import StateKeys
from state.shards import shard_names, worker_of
from state.store import StateHome, StateOptions

SHARDS: Final = 8
"""Parts of a replay's key space. More would let more processes share the work (at most one a shard); fewer make larger
batches a shard, and a new folder is made sooner: each of a shard's column families costs a sync of the disk."""
MANIFEST: Final = "manifest.json"
_LOST_PEER: Final = re.compile("timely communication error|Send thread panic|Receive thread panic")
_SQLITE_BUSY: Final = "DatabaseBusy"
_SQLITE_FULL: Final = "database or disk is full"
"""What SQLite, and with it bytewax's recovery store, says of a full disk."""
_THROWAWAY_EPOCH: Final = timedelta(seconds=10)
"""Without a state folder nothing is resumed; epochs only bound what the shards remember of one."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to replay and how.

    Attributes:
        events: Folder of transactions, device_events, identity_events, outcomes as .jsonl, .avro or .parquet.
        out: Folder for decisions.jsonl, labelled_outcomes.jsonl, alerts.jsonl and dead_letters.jsonl.
        state: Folder that lets a replay resume; None: a temporary one, thrown away at the end.
        batch: Events read at once; results do not depend on it.
        epoch: Time between commits; results do not depend on it.
        limits: Bounds of what is accepted.
        tokeniser: Keys for card numbers, None when none are expected.
        now_us: What "far in the future" is measured against.
        shards: Parts of the key space, fixed for the life of a state folder.
        process: (this process's number, addresses of all) in a cluster, None alone.
        rate: Events read a second at the most, None: as fast as they are decided; results do not depend on it.
        memory: What the state of this process may cost.
        state_keys: Keys that the state is encrypted with, None: it is not.
    """

    events: Path
    out: Path
    state: Path | None
    batch: int
    epoch: timedelta
    limits: Limits
    tokeniser: TokenKeys | None
    now_us: int
    shards: int = SHARDS
    process: tuple[int, tuple[str, ...]] | None = None
    rate: float | None = None
    memory: StateOptions = field(default_factory=StateOptions)
    state_keys: StateKeys | None = None


def run_replay(profile: Profile, options: ReplayOptions, run: Run) -> None:
    """Replay until all events are decided or `run.stop` is set; `run.finished` tells which.

    Raises:
        ConfigError: The input, output or state folder cannot be used.
        StateError: The state cannot be resumed.
    """
    files = find_inputs(options.events)
    if options.state is None:
        _run_replay(profile, options, run, files)
        return
    number, addresses = options.process or (0, ())
    with own_state(options.state, number, addresses):
        _run_replay(profile, options, run, files)


def _run_replay(profile: Profile, options: ReplayOptions, run: Run, files: dict[str, EventFile]) -> None:
    temporary = None
    if options.state is None:
        for slot in SLOTS:
            slot_path(options.out, slot).unlink(missing_ok=True)
        temporary = made = Path(tempfile.mkdtemp(prefix="weir-replay-"))
        forget = at_death(lambda: shutil.rmtree(made, ignore_errors=True))
    directory = options.state or temporary
    if directory is None:
        raise AssertionError
    options = replace(options, now_us=prepare_folders(profile, options, files))
    for slot in SLOTS:
        with suppress(OSError):  # the slot says what is wrong, and which page helps
            slot_path(options.out, slot).touch()  # no alerts is an empty file: the engine opens a slot when it is used
    home = StateHome(directory / "shards", options.memory, options.state_keys, format_of)
    try:
        _execute(profile, options, run, files, home, directory)
        run.state = state_figures(home)
    finally:
        home.close()
        if temporary is not None:
            forget()
            shutil.rmtree(temporary, ignore_errors=True)


def _execute(
    profile: Profile, options: ReplayOptions, run: Run, files: dict[str, EventFile], home: StateHome, directory: Path
) -> None:
    enricher = profile.enricher()
    outcomes = "outcomes" in files
    in_order = options.process is None
    epochs = Epochs()
    remembered_us = profile.seen_config(outcomes=outcomes).keep_us

    def open_merge(state: MergeState | None) -> Merge:
        def decoder(stream: str) -> Ingest:
            return ingest(stream, profile.features, enricher, options.limits, options.tokeniser, options.now_us)

        return Merge(files, decoder, profile.learning.tick_us, state)

    @deadly
    def open_store(shard: str, step: str, version: int | None) -> StepStore:
        run.pulse.beat(f"opening step {step} of shard {shard}")
        began = time.perf_counter()
        store = home.open(shard, step, version)
        run.stats.times.stores_s += time.perf_counter() - began
        return store

    @deadly
    def open_slot(slot: str, resumed: SlotSnapshot | None) -> FileSlot:
        run.pulse.beat(f"opening output {slot}")
        ledger = open_store(f"ledger-{slot}", "ledger", resumed["version"] if resumed else None)
        path = slot_path(options.out, slot)
        committed = resumed["offset"] if resumed else 0
        told = run.stats.stage(PUBLISH)
        return FileSlot(
            slot, path, ledger, committed, remembered_us, sync, epochs, may_overtake=not in_order, stats=told
        )

    number, addresses = options.process or (None, None)
    sync = home.sync if options.state is not None else None
    shards = shard_names(options.shards)
    adopted = None
    if options.state is not None and worker_of(shards[0], len(addresses or (None,))) == (number or 0):
        # Before the flow starts: from then on the recovery store and the output are no longer what was found.
        adopted = adopted_decisions(options.state, slot_path(options.out, DECISIONS))
    barrier = Barrier(shards, number or 0, len(addresses or (None,)), sync, run.pulse, epochs)
    flow = build(
        EventsSource(open_merge, options.batch, run, epochs, options.rate, linger=not in_order),
        profile.seen(outcomes=outcomes),
        profile.entities(_predecessor(options.state)),
        profile.decide(outcomes=outcomes, in_order=in_order, adopted=adopted),
        open_store,
        open_slot,
        shards,
        run.stats,
        epochs,
        in_order=in_order,
        barrier=barrier,
    )
    recovery = None
    if options.state is not None:
        recovery = RecoveryConfig(directory / "recovery")  # type: ignore[no-untyped-call]  # native, without stubs
    run.stats.times.mark("loaded")
    run.stats.stage(PUBLISH).at_first = lambda: run.stats.times.mark("first_record")
    calm_collector()
    control = nullcontext() if recovery is None else ControlServer(directory, home, number or 0, len(addresses or "1"))
    try:
        with control:
            cli_main(  # type: ignore[no-untyped-call]  # native, without stubs
                flow,
                workers_per_process=1,
                process_id=number,
                addresses=list(addresses) if addresses else None,
                epoch_interval=options.epoch if options.state is not None or addresses else _THROWAWAY_EPOCH,
                recovery_config=recovery,
            )
    except BaseException as error:  # a panic of the engine is no Exception
        told = engine_error(error, directory, number or 0, addresses or ())
        if told is error:
            raise
        raise told from error


def engine_error(error: BaseException, directory: Path, number: int, addresses: Sequence[str]) -> BaseException:
    """What to raise instead of what the engine raised: our own error inside it, a sentence, or the same."""
    told = own_error(error)
    if told is not None:
        return told
    if _SQLITE_FULL in str(error):
        message = f"{directory / 'recovery'}: {_SQLITE_FULL}; see docs/runbooks/disk-full.md, then start again"
        return StateError(message)
    if _SQLITE_BUSY in str(error):
        # One that was stopped in the middle of a commit holds the file without making progress.
        message = f"state {directory}: its recovery store is open in another process; end that one, then start again"
        return StateLockedError(message)
    if addresses and _LOST_PEER.search(str(error)):
        message = f"process {number} of {len(addresses)}: lost the connection to another process of the cluster"
        return PeerError(message)
    return error


def own_error(error: BaseException | None) -> WeirError | None:
    """The error of ours that bytewax wraps in one of its own, None when there is none."""
    while error is not None and not isinstance(error, WeirError):
        error = error.__cause__
    return error


def calm_collector() -> None:
    """Let Python look for reference cycles seldom: a batch is thousands of small objects without any.

    At Python's own thresholds the collector walks them dozens of times a batch and finds nothing. What lives from here
    on (libraries, profile) is left out for good.
    """
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)


def find_inputs(events: Path) -> dict[str, EventFile]:
    """The event files of a folder, by stream.

    Raises:
        ConfigError: There are no transactions.
    """
    if not events.is_dir():
        message = f"--events {events}: expected a folder, found none"
        raise ConfigError(message)
    found = {stream: find_events(events, stream) for stream in STREAMS}
    if found["transactions"] is None:
        message = f"--events {events}: expected transactions.jsonl, .avro or .parquet in it, found none"
        raise ConfigError(message)
    return {stream: source for stream, source in found.items() if source is not None}


def prepare_folders(profile: Profile, options: ReplayOptions, files: dict[str, EventFile]) -> int:
    """Make the output and the state folder, or see that the state belongs to this very replay.

    Returns the `now_us` to go by: that of the first start, so that a resume does not judge future events anew.

    The manifest is durable before the first record is published, so that output without a commit is known as ours.

    Raises:
        ConfigError: The folder belongs to another replay, or it is new and the output folder is not empty.
    """
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if options.state is not None:
            options.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"--out {options.out}, --state {options.state}: cannot be made ({error.strerror}: {error.filename})"
        raise ConfigError(message) from error
    state = options.state
    if state is None:
        return options.now_us
    refuse_half_restored(state)
    wanted = {
        "shards": options.shards,
        "policy": profile.policy.hash,
        "learning": profile.learning.hash,
        "rates": profile.rates.version,
        "geo": profile.geo.version,
        "pan_keys": options.tokeniser.identity_check if options.tokeniser else None,
        "events": {stream: {"name": source.path.name, "size": source.size} for stream, source in files.items()},
    }
    manifest = state / MANIFEST
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        check_format(found, state)
        for key, value in wanted.items():
            if found.get(key) != value:
                message = (
                    f"--state {state}: it belongs to another replay: {key} was {found.get(key)!r}, is now {value!r}; "
                    "give the same profile and events, or a new --state folder"
                )
                raise ConfigError(message)
        file = f"{profile.name}/features.toml"
        own = carried_on(found, profile.features, options.state_keys, state, file)
        if any(found[key] != value for key, value in own.items()):
            _write_manifest(manifest, {**found, **own})
        return int(found["now_us"])
    for slot in SLOTS:
        path = slot_path(options.out, slot)
        if path.is_file() and path.stat().st_size:
            message = f"--out {options.out}: {path.name} is not empty, and --state {state} is new; give an empty --out"
            raise ConfigError(message)
    recovery = state / "recovery"
    shutil.rmtree(recovery, ignore_errors=True)  # what a start that died before its manifest may have left
    recovery.mkdir(parents=True)
    init_db_dir(recovery, 1)  # type: ignore[no-untyped-call]  # native, without stubs
    own = own_entries(profile.features, options.state_keys)
    _write_manifest(manifest, {"format": FORMAT, **wanted, **own, "now_us": options.now_us})
    return options.now_us


def _write_manifest(manifest: Path, content: dict[str, Any]) -> None:
    written = manifest.with_suffix(".new")
    with written.open("w") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    written.rename(manifest)


def _predecessor(state: Path | None) -> str | None:
    return None if state is None else predecessor(json.loads((state / MANIFEST).read_text()))
