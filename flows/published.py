"""What stands in the output of decisions behind its committed length: the decisions of a run that was killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from flows.publish import DECISIONS
from flows.recovery import read_recovery, recovery_file
from operators.adopted import Adopted, Place
from schemas.codec import decode_json_mapping


def adopted_decisions(state: Path, output: Path) -> Adopted:
    """The decisions that a resume will come to again; call it before the flow starts.

    Args:
        state: The state directory.
        output: decisions.jsonl.

    Raises:
        StateError: The recovery store cannot be read.
    """
    committed = read_recovery(recovery_file(state)).offsets.get(DECISIONS, 0)

    def read(offset: int, length: int) -> dict[str, Any]:
        file = os.open(output, os.O_RDONLY)
        try:
            return decode_json_mapping("decision", os.pread(file, length, offset))
        finally:
            os.close(file)

    return Adopted(_places(output, committed), read)


def _places(output: Path, committed: int) -> dict[str, Place]:
    """Where each decision stands that is no answer to a retry; ends at what is no whole record, as the output does."""
    places: dict[str, Place] = {}
    if not output.is_file():
        return places
    offset = committed
    with output.open("rb") as lines:
        lines.seek(committed)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                break  # the output refuses the start, and says where
            if not record.get("duplicate"):
                places[record["transaction_id"]] = (offset, len(line) - 1)
            offset += len(line)
    return places
