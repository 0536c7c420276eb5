"""Card numbers for tests, and scans that find them in files and, decoded, in RocksDB."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import rocksdict

from schemas.pan import find_pans


def random_pans(rng: random.Random, count: int) -> list[str]:
    """Luhn-valid numbers with a card's prefix and length; of nobody's card, as they are random."""
    made = []
    for _ in range(count):
        body = rng.choice(["4", "51", "2221"]) + "".join(str(rng.randrange(10)) for _ in range(16))
        body = body[:15]
        total = 0
        for place, digit in enumerate(reversed(body)):
            number = int(digit) * (2 if place % 2 == 0 else 1)
            total += number - 9 if number > 9 else number
        made.append(body + str(-total % 10))
    return made


def pans_in_files(directory: Path, pans: list[str]) -> list[str]:
    """Which of `pans` stand in any file below `directory`."""
    known = frozenset(pans)
    return sorted(
        {
            found
            for path in sorted(directory.rglob("*"))
            if path.is_file()
            for found in find_pans(path.read_bytes(), known)
        }
    )


def every_record(state: Path) -> Iterator[bytes]:
    """Each key with its value of each shard and column family, before-images included."""
    for directory in sorted(path for path in (state / "shards").iterdir() if path.is_dir()):
        options = rocksdict.Options(raw_mode=True)
        families = {name: rocksdict.Options(raw_mode=True) for name in rocksdict.Rdict.list_cf(str(directory))}
        database = rocksdict.Rdict(
            str(directory), options, column_families=families, access_type=rocksdict.AccessType.read_only()
        )
        for name in families:
            family = database.get_column_family(name)
            for key, value in family.items():
                if not isinstance(key, bytes) or not isinstance(value, bytes):
                    raise TypeError(name)  # raw mode gives bytes
                yield key + b"\x00" + value
            family.close()
        database.close()


def pans_in_records(state: Path, pans: list[str]) -> list[str]:
    """Which of `pans` stand in any record, read through RocksDB since compression hides text."""
    known = frozenset(pans)
    return sorted({found for record in every_record(state) for found in find_pans(record, known)})


def pans_in_state(state: Path, pans: list[str]) -> list[str]:
    """Which of `pans` stand in any record, or in any file."""
    return pans_in_records(state, pans) + pans_in_files(state, pans)
