"""The faults of a kill campaign: how each is done to a running replay, and what must become of it.

A fault finds the replay dead and leaves it dead. That it resumed is seen by the next start, which must publish.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from load_tests.campaign.disk import SmallDisk, put_back, take_copy, truncate_newest
from load_tests.campaign.replica import END_LIMIT_S, START_LIMIT_S, Life, Replica, ReplicaError, wait_for

LONGEST_RUN_S: Final = 1.2
"""How long a start publishes before its fault, at most. Larger: fewer faults fit into the traffic."""
STALL_S: Final = 1.0
"""Output that does not grow for so long under steady load is a stall: five epochs."""

SNAPSHOT_POINTS: Final = (("commit", 90), ("sync", 8), ("synced", 8), ("write", 40))
"""Points of an epoch's end (and, for `write`, of publishing), with the most arrivals to wait for: some three epochs."""
START_POINTS: Final = (("open", 8), ("rollback", 20), ("adopted", 3))
FIRST_START_POINTS: Final = (("manifest", 1), ("open", 8), ("adopted", 3))


class StreamEndedError(Exception):
    """The replay came to the end of its events before the fault could be done."""


@dataclass(slots=True)
class Scene:
    """What faults are done to.

    Attributes:
        replica: The replay.
        rng: Chooses moments, victims and places.
        disk: Small disk that state and outputs are on, None when they are on the usual one.
        copies: Folder for copies of the state.
        resumed: Called when the replay publishes again.
        taken_back: Called when outputs were restored from a copy, so that what was published may be published anew.
    """

    replica: Replica
    rng: random.Random
    disk: SmallDisk | None
    copies: Path
    resumed: Callable[[], None]
    taken_back: Callable[[], None] = field(default=lambda: None)

    def run_a_while(self, life: Life, longest_s: float = LONGEST_RUN_S) -> None:
        """Wait until something new is published, then a random time."""
        self.wait_published(life)
        time.sleep(self.rng.random() * longest_s)

    def wait_published(self, life: Life) -> None:
        """Wait until something new is published.

        Raises:
            StreamEndedError: All events are decided.
            ReplicaError: The replay ended, or published nothing for too long.
        """
        before = self.replica.published_bytes()
        wait_for(lambda: self.replica.published_bytes() > before or life.exit_code() is not None, START_LIMIT_S)
        if self.replica.published_bytes() > before:
            self.resumed()
            return
        code = life.exit_code()
        told = life.told()
        life.kill()
        if code == 0:
            self.resumed()
            raise StreamEndedError
        what = "published nothing" if code is None else f"ended with {code}"
        message = f"a start that nothing was done to {what}; it told:\n{told}"
        raise ReplicaError(message)

    def expect_refusal(self, life: Life, words: tuple[str, ...]) -> None:
        """Wait until a start has ended, not well, and told all of `words`.

        Raises:
            ReplicaError: It goes on, ended well or says something else.
        """
        before = self.replica.published_bytes()
        wait_for(lambda: life.exit_code() is not None or self.replica.published_bytes() > before, START_LIMIT_S)
        if life.exit_code() is None:
            life.kill()
            message = f"expected a start to be refused with {words}, found that it goes on\n{life.told()}"
            raise ReplicaError(message)
        code = life.wait_dead()
        missing = [word for word in words if word not in life.told()]
        if code == 0 or missing:
            message = f"expected a refusal that tells {words}, found exit code {code} without {missing}\n{life.told()}"
            raise ReplicaError(message)


def kill_all(scene: Scene) -> str:
    """SIGKILL of all processes at a random moment."""
    life = scene.replica.start()
    scene.run_a_while(life)
    life.kill()
    return "all processes"


def kill_one(scene: Scene) -> str:
    """SIGKILL of one process of several at a random moment; the others must end by themselves."""
    life = scene.replica.start()
    scene.run_a_while(life)
    pids = life.pids()
    if life.exit_code() == 0 or not pids:
        life.kill()
        raise StreamEndedError
    victim = scene.rng.choice(pids)
    life.send(victim, signal.SIGKILL)
    if life.wait_dead() == 0:
        raise StreamEndedError
    return "the launcher" if victim == life.launcher else "a member"


def kill_in_snapshot(scene: Scene) -> str:
    """Death at a named point of an epoch's end; the others of a cluster must end by themselves."""
    return _die_at(scene, SNAPSHOT_POINTS)


def kill_in_start(scene: Scene) -> str:
    """Death while starting: at a named point, or at any moment up to the first record published."""
    rng = scene.rng
    if rng.random() < 0.6:
        first = not (scene.replica.state / "manifest.json").exists()
        return _die_at(scene, FIRST_START_POINTS if first else START_POINTS)
    life = scene.replica.start()
    at = rng.uniform(0.2, 4.0 * scene.replica.setup.processes)
    before = scene.replica.published_bytes()
    wait_for(lambda: scene.replica.published_bytes() > before, at)
    life.kill()
    return f"{at:.1f} s after its start"


def kill_twice(scene: Scene) -> str:
    """SIGKILL of all, and again as soon as the next start has published, or before."""
    kill_all(scene)
    life = scene.replica.start()
    if scene.rng.random() < 0.5:
        scene.wait_published(life)
        life.kill()
        return "again at its first record"
    wait_for(lambda: False, scene.rng.uniform(0.5, 3.0))
    life.kill()
    return "again in its start"


def stop(scene: Scene) -> str:
    """SIGSTOP of one process: all stall, and a start beside the stopped one must be refused until that one is dead."""
    life = scene.replica.start()
    scene.run_a_while(life)
    pids = life.pids()
    members = [pid for pid in pids if pid != life.launcher] or pids
    if life.exit_code() is not None or not members:
        life.kill()
        raise StreamEndedError
    victim = scene.rng.choice(members)
    life.send(victim, signal.SIGSTOP)
    if not _stalls(scene.replica):
        life.kill()
        message = "one process was stopped, and the others go on publishing"
        raise ReplicaError(message)
    life.send(life.launcher, signal.SIGSTOP)
    for pid in life.pids():
        if pid not in (victim, life.launcher):
            life.send(pid, signal.SIGKILL)
    # The launcher would end the stopped one within ten seconds, and the kernel at once if the launcher were killed.
    scene.expect_refusal(scene.replica.start(), ("is open in another process",))
    life.kill()
    return "the only process" if len(pids) == 1 else "a member"


def disk_full(scene: Scene) -> str:
    """The disk fills up: the replay ends and names the runbook; freed, it goes on."""
    disk = scene.disk
    if disk is None:
        message = "a full disk needs a small one"
        raise ValueError(message)
    life = scene.replica.start()
    scene.run_a_while(life)
    spare = scene.rng.choice((0, 4 << 10, 64 << 10, 512 << 10))
    disk.fill(spare)
    try:
        wait_for(lambda: life.exit_code() is not None, END_LIMIT_S)
        code = life.exit_code()
        if code is None:
            life.kill()
            message = f"the disk is full, and the replay neither ends nor says so\n{life.told()}"
            raise ReplicaError(message)
        if code == 0:
            raise StreamEndedError
        life.wait_dead()
    finally:
        disk.free()
    told = life.told()
    if not re.search(r"^weir: .*docs/runbooks/disk-full\.md", told, re.MULTILINE) or "Traceback" in told:
        message = (
            f"the disk was full, and the replay ended without a sentence that names docs/runbooks/disk-full.md:\n{told}"
        )
        raise ReplicaError(message)
    return f"{spare >> 10} KiB left"


def truncated_sst(scene: Scene) -> str:
    """The newest SST of a shard is cut short: refused with its name; restored from a copy, it goes on."""
    return _truncated(scene, ".sst", ("RocksDB cannot open", "docs/runbooks/corrupt-shard.md"))


def truncated_log(scene: Scene) -> str:
    """The newest log of a shard loses its end: refused with its name; restored from a copy, it goes on."""
    return _truncated(scene, ".log", ("docs/runbooks/restore.md",))


FAULTS: Final[dict[str, Callable[[Scene], str]]] = {
    "kill all": kill_all,
    "kill one process": kill_one,
    "kill in snapshot": kill_in_snapshot,
    "kill in start": kill_in_start,
    "kill twice": kill_twice,
    "stop": stop,
    "disk full": disk_full,
    "truncated SST": truncated_sst,
    "truncated log": truncated_log,
}


def _die_at(scene: Scene, points: tuple[tuple[str, int], ...]) -> str:
    point, most = scene.rng.choice(points)
    hits = scene.rng.randint(1, most)
    life = scene.replica.start(point=point, hits=hits)
    limit_s = 2 * LONGEST_RUN_S if points is SNAPSHOT_POINTS else 0.0
    before = scene.replica.published_bytes()
    ended = wait_for(
        lambda: life.exit_code() is not None or scene.replica.published_bytes() > before, START_LIMIT_S
    ) and wait_for(lambda: life.exit_code() is not None, limit_s)
    if scene.replica.published_bytes() > before:
        scene.resumed()
    if not ended:  # fewer arrivals than wished for: killed from outside, wherever it is
        life.kill()
        return f"outside, {point} {hits} did not come"
    code = life.wait_dead()
    if code == 0:
        scene.resumed()
        raise StreamEndedError
    if code not in (-signal.SIGKILL, 128 + signal.SIGKILL) and scene.replica.setup.processes == 1:
        message = f"expected a process to die at {point} {hits}, found exit code {code}; it told:\n{life.told()}"
        raise ReplicaError(message)
    return f"{point} {hits}"


def _stalls(replica: Replica) -> bool:
    deadline = time.monotonic() + END_LIMIT_S
    size, since = replica.published_bytes(), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = replica.published_bytes()
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > STALL_S:
            return True
    return False


def _truncated(scene: Scene, suffix: str, words: tuple[str, ...]) -> str:
    replica = scene.replica
    life = replica.start()
    scene.wait_published(life)
    life.send(life.launcher, signal.SIGTERM)
    code = life.wait_dead()
    if code != 0:
        message = f"expected a replay to end in order at SIGTERM, found exit code {code}; it told:\n{life.told()}"
        raise ReplicaError(message)
    take_copy(replica.state, replica.out, scene.copies)
    life = replica.start()
    scene.wait_published(life)
    time.sleep(LONGEST_RUN_S)  # so that the log holds several epochs
    life.kill()
    damaged = truncate_newest(replica.state, suffix, scene.rng)
    if damaged is None:
        message = f"no shard of {replica.state} has a {suffix} file to damage"
        raise ReplicaError(message)
    scene.expect_refusal(replica.start(), (damaged.parent.name, damaged.name, *words))
    with_outputs = scene.rng.random() < 0.5
    put_back(scene.copies, replica.state, replica.out if with_outputs else None)
    if with_outputs:
        scene.taken_back()
    return f"{damaged.parent.name}/{damaged.name}, restored {'with its outputs' if with_outputs else 'under them'}"
