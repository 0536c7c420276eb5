"""A process that writes to two stores until it is killed; `test_store_kill.py` starts it.

    python -m tests.state.writer DIRECTORY SEED VERSION_OF_CARD VERSION_OF_DEVICE

What epoch n of a store writes is a function of its step and n alone, so the reader can compute any version. A line
"<step> <version>" on stdout acknowledges a commit.
"""

import random
import sys
from pathlib import Path

from state.store import StateHome, StateOptions

SHARD = "s00"
STEPS = ("card", "device")
KEPT = 4
OPTIONS = StateOptions(versions_kept=KEPT, record_cache_bytes=20_000, batch_records=16)


def epoch(step: str, version: int) -> list[list[tuple[bytes, bytes | None]]]:
    """The batches of writes that lead from `version` - 1 to `version`."""
    rng = random.Random(f"{step} {version}")
    batches = []
    for _ in range(rng.randrange(12)):
        batch: list[tuple[bytes, bytes | None]] = []
        for _ in range(rng.randrange(1, 30)):
            key = b"k%d" % rng.randrange(300)
            batch.append((key, None if rng.random() < 0.2 else rng.randbytes(rng.randrange(400))))
        batches.append(batch)
    return batches


def expected(step: str, version: int) -> dict[bytes, bytes]:
    """All records of `step` at `version`."""
    records: dict[bytes, bytes] = {}
    for number in range(1, version + 1):
        for batch in epoch(step, number):
            for key, value in batch:
                if value is None:
                    records.pop(key, None)
                else:
                    records[key] = value
    return records


def main(directory: Path, seed: int, versions: list[int]) -> None:
    """Write for ever."""
    rng = random.Random(seed)
    home = StateHome(directory, OPTIONS)
    stores = [home.open(SHARD, step, version or None) for step, version in zip(STEPS, versions, strict=True)]
    while True:
        store = rng.choice(stores)
        for batch in epoch(store.step, store.version + 1):
            store.get_many([key for key, _ in batch])
            store.put_many(batch)
        print(store.step, store.commit(), flush=True)
        if rng.random() < 0.2:
            home.sync()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [int(version) for version in sys.argv[3:]])
