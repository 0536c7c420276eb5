"""event files → merge in event-time order → the decide graph → files; what cannot be read → dead_letters.jsonl."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Final

from bytewax._bytewax import cli_main
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir

from flows.decide import build, slot_path
from flows.files import EventFile, find_events
from flows.ingest import STREAMS, ingest
from flows.merge import Ingest, Merge, MergeState
from flows.profile import Profile
from flows.publish import SLOTS, FileSlot, SlotSnapshot
from flows.stage import Part
from flows.stats import RunStats
from operators.inflight import InFlight
from schemas.errors import ConfigError, StateError, StreamError, WeirError
from schemas.tokens import TokenKeys
from schemas.validate import Limits
from state.api import StepStore
from state.shards import shard_names
from state.store import StateHome, StateOptions

SHARDS: Final = 8
"""Parts of a replay's key space. More would let more processes share the work (at most one a shard); fewer make larger
batches a shard, and a new folder is made sooner: each of a shard's column families costs a sync of the disk."""
MANIFEST: Final = "manifest.json"
_SQLITE_FULL: Final = "database or disk is full"
"""What SQLite, and with it bytewax's recovery store, says of a full disk."""
_THROWAWAY_EPOCH: Final = timedelta(seconds=10)
"""Without a state folder nothing is resumed; epochs only bound what the shards remember of one."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to replay and how.

    Attributes:
        events: Folder of transactions, device_events, identity_events, outcomes as .jsonl, .avro or .parquet.
        out: Folder for decisions.jsonl, labelled_outcomes.jsonl and dead_letters.jsonl.
        state: Folder that lets a replay resume; None: a temporary one, thrown away at the end.
        batch: Events read at once; results do not depend on it.
        epoch: Time between commits; results do not depend on it.
        limits: Bounds of what is accepted.
        tokeniser: Keys for card numbers, None when none are expected.
        now_us: What "far in the future" is measured against.
        shards: Parts of the key space, fixed for the life of a state folder.
        process: (this process's number, addresses of all) in a cluster, None alone.
        rate: Events read a second at the most, None: as fast as they are decided; results do not depend on it.
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


class Run:
    """One process's part in a replay: what it measures, and whether it shall stop.

    Attributes:
        stats: Figures by stage.
        stop: Set to end in order: commit what was read, read no more.
        finished: All events were read.
        merge: The merged events, None until bytewax has opened the source, and in processes without it.
        refused: Why a store or an output could not be opened, None when all could.
    """

    def __init__(self) -> None:
        self.stats = RunStats()
        self.stop = threading.Event()
        self.finished = False
        self.merge: Merge | None = None
        self.refused: WeirError | None = None

    def stop_on_signals(self) -> Callable[[], None]:
        """End in order at the first SIGTERM or SIGINT, at once at the second; returns what undoes it."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if self.stop.is_set():
                os._exit(128 + number)
            self.stop.set()

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}

        def undo() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return undo


class _EventsPartition(StatefulSourcePartition[Part, MergeState]):
    """The merged files, a batch at a time."""

    def __init__(self, merge: Merge, size: int, run: Run, rate: float | None) -> None:
        self._merge = merge
        self._size = size
        self._run = run
        self._rate = rate
        self._due: datetime | None = None
        self._batch = 0

    def next_batch(self) -> Iterable[Part]:
        """Called by bytewax whenever it has room; ends the flow when all is read or the run is to stop."""
        if self._run.stop.is_set():
            raise StopIteration
        started = time.perf_counter()
        events: list[InFlight] = []
        merge = self._merge
        try:
            for _ in range(self._size):
                events.append(next(merge))
        except StopIteration:
            if not events:
                self._run.finished = True
                raise
        self._run.stats.stage("ingest").observe(time.perf_counter() - started, len(events))
        part = Part(self._batch, 1, events, [])
        self._batch += 1
        if self._rate is not None:
            # From when the batch was due, not from now: a stall is caught up with, as a live stream's would be.
            self._due = (self._due or datetime.now(UTC)) + timedelta(seconds=len(events) / self._rate)
        return [part]

    def next_awake(self) -> datetime | None:
        """Called by bytewax; when the next batch is due, None: at once."""
        return self._due

    def snapshot(self) -> MergeState:
        """Called by bytewax at the end of an epoch."""
        return self._merge.state()


class EventsSource(FixedPartitionedSource[Part, MergeState]):
    """The event files as one bytewax partition, since their merged order is one order."""

    def __init__(
        self, open_merge: Callable[[MergeState | None], Merge], size: int, run: Run, rate: float | None = None
    ) -> None:
        self._open_merge = open_merge
        self._size = size
        self._run = run
        self._rate = rate

    def list_parts(self) -> list[str]:
        """Called by bytewax once a worker."""
        return ["events"]

    def build_part(self, step_id: str, for_part: str, resume_state: MergeState | None) -> _EventsPartition:
        """Called by bytewax on the worker that owns the partition."""
        merge = self._open_merge(resume_state)
        self._run.merge = merge
        return _EventsPartition(merge, self._size, self._run, self._rate)


def run_replay(profile: Profile, options: ReplayOptions, run: Run) -> None:
    """Replay until all events are decided or `run.stop` is set; `run.finished` tells which.

    Raises:
        ConfigError: The input, output or state folder cannot be used.
        StateError: The state cannot be resumed.
    """
    files = find_inputs(options.events)
    temporary = None
    if options.state is None:
        for slot in SLOTS:
            slot_path(options.out, slot).unlink(missing_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix="weir-replay-"))
    directory = options.state or temporary
    if directory is None:
        raise AssertionError
    options = replace(options, now_us=prepare_folders(profile, options, files))
    home = StateHome(directory / "shards", StateOptions())
    try:
        _execute(profile, options, run, files, home, directory)
    finally:
        home.close()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _execute(
    profile: Profile, options: ReplayOptions, run: Run, files: dict[str, EventFile], home: StateHome, directory: Path
) -> None:
    enricher = profile.enricher()
    outcomes = "outcomes" in files
    in_order = options.process is None
    remembered_us = profile.seen_config(outcomes=outcomes).keep_us

    def open_merge(state: MergeState | None) -> Merge:
        def decoder(stream: str) -> Ingest:
            return ingest(stream, profile.features, enricher, options.limits, options.tokeniser, options.now_us)

        return Merge(files, decoder, profile.learning.tick_us, state)

    def open_store(shard: str, step: str, version: int | None) -> StepStore:
        try:
            return home.open(shard, step, version)
        except WeirError as error:
            run.refused = run.refused or error
            raise

    slots: list[FileSlot] = []

    def open_slot(slot: str, resumed: SlotSnapshot | None) -> FileSlot:
        try:
            slots.append(slot_of(slot, resumed))
        except WeirError as error:
            run.refused = run.refused or error
            raise
        return slots[-1]

    def slot_of(slot: str, resumed: SlotSnapshot | None) -> FileSlot:
        ledger = home.open(f"ledger-{slot}", "ledger", resumed["version"] if resumed else None)
        path = slot_path(options.out, slot)
        committed = resumed["offset"] if resumed else 0
        sync = home.sync if options.state is not None else None
        return FileSlot(slot, path, ledger, committed, remembered_us, sync, may_overtake=not in_order)

    flow = build(
        EventsSource(open_merge, options.batch, run, options.rate),
        profile.seen(outcomes=outcomes),
        profile.entities(),
        profile.decide(outcomes=outcomes, in_order=in_order),
        open_store,
        open_slot,
        shard_names(options.shards),
        run.stats,
        in_order=in_order,
    )
    recovery = None
    if options.state is not None:
        recovery = RecoveryConfig(directory / "recovery")  # type: ignore[no-untyped-call]  # native, without stubs
    calm_collector()
    number, addresses = options.process or (None, None)
    try:
        cli_main(  # type: ignore[no-untyped-call]  # native, without stubs
            flow,
            workers_per_process=1,
            process_id=number,
            addresses=list(addresses) if addresses else None,
            epoch_interval=options.epoch if options.state is not None else _THROWAWAY_EPOCH,
            recovery_config=recovery,
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # in a cluster bytewax loses the error, and panics: that is no Exception
        failures = (own_error(error), run.refused, home.failure(), *(slot.failure for slot in slots))
        told = next((failure for failure in failures if failure is not None), None)
        if told is None and _SQLITE_FULL in str(error):
            message = f"{directory / 'recovery'}: {_SQLITE_FULL}; see docs/runbooks/disk-full.md, then start again"
            told = StateError(message)
        if told is None and options.process is not None and not isinstance(error, Exception):
            message = "another process of this replay has ended; what it told says why"
            told = StreamError(message)
        if told is None:
            raise
        raise told from error


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
    wanted = {
        "format": 1,
        "shards": options.shards,
        "features": profile.features.hash,
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
        for key, value in wanted.items():
            if found.get(key) != value:
                message = (
                    f"--state {state}: it belongs to another replay: {key} was {found.get(key)!r}, is now {value!r}; "
                    "give the same profile and events, or a new --state folder"
                )
                raise ConfigError(message)
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
    written = manifest.with_suffix(".new")
    with written.open("w") as out:
        json.dump({**wanted, "now_us": options.now_us}, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    written.rename(manifest)
    return options.now_us
