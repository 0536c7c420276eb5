"""SIGKILL of a real writer process, at random moments and in the middle of a rollback."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.errors import StateVersionError
from state.store import StateHome
from tests.state.writer import KEPT, OPTIONS, SHARD, STEPS, expected

ROOT = Path(__file__).parents[2]

KILLED_ROLLBACK = """
import os, signal, sys
from pathlib import Path
from state import rollback
from schemas.errors import StateVersionError
from state.store import StateHome
from tests.state.writer import OPTIONS, SHARD

directory, version, writes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rollback.ROLLBACK_BATCH_BYTES = 1
write = rollback._write

def write_or_die(shard, batch):
    global writes
    if writes == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    writes -= 1
    write(shard, batch)

rollback._write = write_or_die
StateHome(directory, OPTIONS).open(SHARD, "card", version)
"""


def run_and_kill(directory: Path, seed: int, versions: dict[str, int], after_s: float) -> dict[str, int]:
    """Last acknowledged versions of a writer that is killed some time after its first commit."""
    command = [sys.executable, "-m", "tests.state.writer", str(directory), str(seed)]
    command += [str(versions[step]) for step in STEPS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(after_s)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
    assert writer.returncode == -signal.SIGKILL, first + rest
    acknowledged = dict(versions)
    for line in (first + rest).splitlines(keepends=True):
        if line.endswith("\n"):  # a killed writer may leave half a line
            step, version = line.split()
            acknowledged[step] = int(version)
    return acknowledged


def test_whatever_was_acknowledged_before_a_sigkill_is_there_and_nothing_else(state_directory: Path) -> None:
    rng = random.Random(20)
    versions = dict.fromkeys(STEPS, 0)
    for kill in range(8):
        acknowledged = run_and_kill(state_directory, kill, versions, rng.random() * 0.25)
        assert acknowledged != versions
        with StateHome(state_directory, OPTIONS) as home:
            for step in STEPS:
                # bytewax may have committed the last version it was told, or an earlier one.
                wanted = max(0, acknowledged[step] - rng.choice([0, 0, 1, KEPT - 1]))
                store = home.open(SHARD, step, wanted or None)
                records = expected(step, wanted)
                assert dict(store.scan(b"", None, 10_000)) == records
                assert store.get_many(list(records)) == list(records.values())
                versions[step] = wanted


@pytest.mark.parametrize("target", [5, 6])
def test_a_rollback_killed_before_any_of_its_writes_is_finished_by_the_next(target: int, state_directory: Path) -> None:
    state = state_directory / "state"
    with StateHome(state, OPTIONS) as home:
        store = home.open(SHARD, "card", None)
        for version in range(1, 9):
            if version == 8:  # stays uncommitted
                store.put_many([(b"k%d" % number, b"uncommitted") for number in range(40)])
                store.scan(b"", None, 1)  # writes what waits
                break
            rng = random.Random(version)
            for _ in range(4):
                store.put_many([(b"k%d" % rng.randrange(50), b"%d" % version) for _ in range(20)])
            store.commit()
    exact: dict[int, list[tuple[bytes, bytes]]] = {}
    for version in (4, 5, 6, 7):
        shutil.copytree(state, state_directory / f"at-{version}")
        with StateHome(state_directory / f"at-{version}", OPTIONS) as home:
            exact[version] = home.open(SHARD, "card", version).scan(b"", None, 1_000)
    assert exact[4] != exact[5] != exact[6] != exact[7]

    outcomes = []
    refusals = 0
    for writes in range(100):
        copy = state_directory / f"killed-{writes}"
        shutil.copytree(state, copy)
        command = [sys.executable, "-c", KILLED_ROLLBACK, str(copy), str(target), str(writes)]
        killed = subprocess.run(command, cwd=ROOT, check=False)
        outcomes.append(killed.returncode)
        for version in (target, target - 1):  # the next start may know an older version only
            again = state_directory / f"again-{writes}-{version}"
            shutil.copytree(copy, again)
            with StateHome(again, OPTIONS) as home:
                store = home.open(SHARD, "card", version)
                assert store.scan(b"", None, 1_000) == exact[version]
                assert store.version == version
        for version in (6, 7):
            again = state_directory / f"again-{writes}-{version}-too-high"
            shutil.copytree(copy, again)
            with StateHome(again, OPTIONS) as home:
                try:
                    store = home.open(SHARD, "card", version)
                except StateVersionError:
                    refusals += 1
                else:
                    assert store.scan(b"", None, 1_000) == exact[version], "half a rollback passed for a version"
        if killed.returncode == 0:
            break
    assert len(outcomes) > 5, "the rollback was too short to be killed in its middle"
    assert set(outcomes[:-1]) == {-signal.SIGKILL}
    assert outcomes[-1] == 0
    assert refusals > 0
