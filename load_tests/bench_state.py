"""What the state costs: µs per get, put, commit and rollback, on a state directory made for it.

    python -m load_tests.bench_state                     # a table; some 20 s
    python -m load_tests.bench_state --touches 2000000
    python -m load_tests.bench_state --encryption        # what encryption at rest costs; some 40 s

A touch is one get and one put of a record, as a step does it for each payment: batches of `--batch` keys of one shard,
6 steps, 32 shards, an epoch's commit of all stores each `--epoch` touches. CPU µs are of the calling thread, so that
a busy machine does not count; RocksDB's flushes and compactions run in threads of their own (column "process").
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from state.keys import StateKeys
from state.shards import shard_names
from state.store import RocksStepStore, StateHome, StateOptions

STEPS = ("account", "card", "device", "ip", "merchant", "terminal")


class Stopwatch:
    """Sums the time of what is measured, by name."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, float, float, float]] = []

    @contextmanager
    def measure(self, name: str, units: int) -> Iterator[None]:
        """Time the block and note it as `units` units of work."""
        thread, process, wall = time.thread_time(), time.process_time(), time.perf_counter()
        yield
        self.rows.append(
            (
                name,
                units,
                (time.thread_time() - thread) / units * 1e6,
                (time.process_time() - process) / units * 1e6,
                (time.perf_counter() - wall) / units * 1e6,
            )
        )

    def table(self, title: str) -> Table:
        """All that was measured."""
        table = Table("what", "n", "thread µs", "process µs", "wall µs", title=title)
        for name, units, *figures in self.rows:
            table.add_row(name, f"{units:,}", *(f"{figure:.2f}" for figure in figures))
        return table


def touch(
    stores: list[RocksStepStore], rng: random.Random, touches: int, entities: int, batch: int, epoch: int, value: bytes
) -> None:
    """`touches` gets and puts over all stores in turn, half of the keys from a hundredth of the entities."""
    per_store = max(1, entities // len(stores))
    hot = max(1, per_store // 100)
    done = since = 0
    while done < touches:
        for store in stores:
            keys = [b"v%012d" % rng.randrange(hot if rng.random() < 0.5 else per_store) for _ in range(batch)]
            found = store.get_many(keys)
            store.put_many([(key, value) for key, _ in zip(keys, found, strict=True)])
            done += batch
            since += batch
            if since >= epoch:
                since = 0
                for each in stores:
                    each.commit()
            if done >= touches:
                return


def keys_only(stores: list[RocksStepStore], rng: random.Random, touches: int, entities: int, batch: int) -> None:
    """The same loop without the state, to be subtracted."""
    per_store = max(1, entities // len(stores))
    hot = max(1, per_store // 100)
    done = 0
    value = b""
    while done < touches:
        for _ in stores:
            keys = [b"v%012d" % rng.randrange(hot if rng.random() < 0.5 else per_store) for _ in range(batch)]
            [(key, value) for key, _ in zip(keys, keys, strict=True)]
            done += batch
            if done >= touches:
                return


def run(directory: Path, arguments: argparse.Namespace) -> None:
    """All measurements on a new home in `directory`."""
    rng = random.Random(7)
    console = Console()
    watch = Stopwatch()
    value = rng.randbytes(arguments.value_bytes)
    names = shard_names(32)
    touches, entities, batch = arguments.touches, arguments.entities, arguments.batch
    home = StateHome(directory, StateOptions())
    with watch.measure("open a store (32 shards, 6 steps, new)", 192):
        stores = [home.open(name, step, None) for name in names for step in STEPS]
    with watch.measure("(making keys and items, to subtract)", touches):
        keys_only(stores, rng, touches, entities, batch)
    with watch.measure("touch: get + put, 100,000 entities (all cached)", touches):
        touch(stores, rng, touches, 100_000, batch, arguments.epoch, value)
    with watch.measure("touch: the same, batches of 2", touches // 10):
        touch(stores, rng, touches // 10, 100_000, 2, arguments.epoch // 10, value)
    with watch.measure(f"touch: get + put, {entities:,} entities, many new", touches):
        touch(stores, rng, touches, entities, batch, arguments.epoch, value)
    with watch.measure(f"touch: get + put, {entities:,} entities", touches):
        touch(stores, rng, touches, entities, batch, arguments.epoch, value)
    with watch.measure("sync all shards", 1):
        home.sync()
    hot = [b"v%012d" % number for number in range(batch)]
    one = stores[0]
    one.get_many(hot)
    with watch.measure("get of a cached record", 2_000 * batch):
        for _ in range(2_000):
            one.get_many(hot)
    cold = [[b"v%012d" % rng.randrange(max(1, entities // len(stores))) for _ in range(batch)] for _ in range(500)]
    one._cache.dismiss(one._records)  # noqa: SLF001 - the bench wants RocksDB's own time
    with watch.measure("get of a record not cached", 500 * batch):
        for keys in cold:
            one._records.clear()  # noqa: SLF001
            one.get_many(keys)
    with watch.measure("get of a key that is not there, not cached", 500 * batch):
        for number in range(500):
            one.get_many([b"x%06d-%04d" % (number, place) for place in range(batch)])
    with watch.measure("scan of 30 records, per record", 500 * 30):
        for keys in cold:
            one.scan(keys[0], None, 30)
    for store in stores:
        store.commit()
    with watch.measure("commit of a store", len(stores) * 20):
        for _ in range(20):
            for store in stores:
                store.commit()
    stalls = []
    for _ in range(20):
        touch(stores, rng, len(stores) * batch, entities, batch, 1 << 60, value)
        started = time.perf_counter()
        for store in stores:
            store.commit()
        home.sync()
        stalls.append(time.perf_counter() - started)
    versions = {(store.shard, store.step): store.version for store in stores}
    images = len(stores) * batch
    touch(stores, rng, images, entities, batch, 1 << 60, value)
    stats = home.stats()
    home.close()
    home = StateHome(directory, StateOptions())
    started = time.perf_counter()
    for key, version in versions.items():
        home.open(*key, version)
    reopened = time.perf_counter() - started
    with watch.measure("rollback of one epoch, per before-image", images):
        for key, version in versions.items():
            home.open(*key, version - 1)
    home.close()
    console.print(watch.table(f"{touches:,} touches, {entities:,} entities, {arguments.value_bytes} B, batch {batch}"))
    stalls.sort()
    console.print(
        f"commit + sync of 192 stores: p50 {stalls[10] * 1e3:.1f} ms, max {stalls[-1] * 1e3:.1f} ms; "
        f"reopening 192 stores with an epoch to undo: {reopened * 1e3:.0f} ms; "
        f"RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB at most"
    )
    console.print({name: round(figure, 4) for name, figure in stats.items()})


def compare_encryption(directory: Path, arguments: argparse.Namespace) -> None:
    """The same touches with and without encryption, in turns in this one run; cold reads and size on disk too."""
    names = shard_names(32)
    value = random.Random(7).randbytes(arguments.value_bytes)
    figures: dict[str, list[float]] = {}
    for turn in range(3):
        for label, keys in (("plain", None), ("encrypted", StateKeys("bench", {"bench": bytes(range(32))}))):
            rng = random.Random(turn)
            home = StateHome(directory / f"{label}-{turn}", StateOptions(), keys)
            stores = [home.open(name, step, None) for name in names for step in STEPS]
            began = time.process_time()
            touch(stores, rng, arguments.touches, arguments.entities, arguments.batch, arguments.epoch, value)
            touched = (time.process_time() - began) / arguments.touches * 1e6
            for store in stores:
                store.commit()
            one = stores[0]
            reads = [[b"v%012d" % rng.randrange(5_000) for _ in range(arguments.batch)] for _ in range(500)]
            began = time.process_time()
            for keys_read in reads:
                one._records.clear()  # noqa: SLF001 - the bench wants what a miss costs
                one.get_many(keys_read)
            missed = (time.process_time() - began) / (500 * arguments.batch) * 1e6
            disk_mib = home.stats()["disk_bytes"] / (1 << 20)
            home.close()
            figures.setdefault(label, []).extend((touched, missed, disk_mib))
    table = Table("what", "plain", "encrypted", "ratio", title=f"{arguments.touches:,} touches, median of 3 turns")
    for at, what in enumerate(("touch (get + put), process µs", "get of a record not cached, process µs", "disk, MiB")):
        plain, encrypted = (statistics.median(figures[label][at::3]) for label in ("plain", "encrypted"))
        table.add_row(what, f"{plain:.2f}", f"{encrypted:.2f}", f"{encrypted / plain:.2f}")
    Console().print(table)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--touches", type=int, default=600_000)
    parser.add_argument("--entities", type=int, default=1_000_000, help="records over all steps and shards")
    parser.add_argument("--batch", type=int, default=30, help="keys of one call")
    parser.add_argument("--epoch", type=int, default=48_000, help="touches between two commits of all stores")
    parser.add_argument("--value-bytes", type=int, default=250)
    parser.add_argument("--directory", type=Path, help="default: a temporary one; is emptied afterwards")
    parser.add_argument("--encryption", action="store_true", help="compare with and without encryption instead")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="weir-bench-state-", dir=arguments.directory))
    try:
        (compare_encryption if arguments.encryption else run)(directory, arguments)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
