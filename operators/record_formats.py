"""Formats of the steps' records: the number of their layout, and the key bytes that identify nobody.

The store goes by them (`state.record_format`): records of a newer layout are refused at the start, those of an older
one are migrated; and when state is encrypted, these bytes of a key stand on disk as they are. Who changes the layout of
a step's records raises its number here and gives the migration from the one before; who scans by more than a first
byte lists its clear bytes.
"""

from __future__ import annotations

from typing import Final

from state.record_format import RecordFormat

SEEN: Final = RecordFormat(layout=1, clear={ord("d"): 9, ord("w"): 9})
"""`operators.seen`: d and w are followed by 8 bytes of time, scanned by."""

DECIDE: Final = RecordFormat(layout=1, clear={ord("p"): 9, ord("w"): 9})
"""`operators.decide`: p and w are followed by 8 bytes of time, scanned by."""

LEDGER: Final = RecordFormat(layout=1, clear={ord("d"): 5})
"""A slot's ledger: d is followed by 4 bytes of day, scanned by."""

ENTITY: Final = RecordFormat(layout=1, clear={ord("v"): 2, ord("m"): 2, ord("t"): 2})
"""`operators.entity`: windows (vh, vx, vc, vp, mv), tracks (tp, tr), reputation (r), identity (i)."""

LABEL_JOIN: Final = RecordFormat(layout=1, clear={ord("d"): 9, ord("w"): 9, ord("p"): 9})
"""`operators.label_join`: d, w and p are followed by 8 bytes of time, scanned by."""

LEARN: Final = RecordFormat(layout=1)
"""`operators.learn`: single records."""

_FORMATS: Final = {"seen": SEEN, "decide": DECIDE, "ledger": LEDGER, "label_join": LABEL_JOIN, "learn": LEARN}


def format_of(step: str) -> RecordFormat:
    """The format of a step's records by the step's name; every step that is none of the fixed ones is an entity."""
    return _FORMATS.get(step, ENTITY)
