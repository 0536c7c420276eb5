"""What the layout of an entity's window records follows from, as it is kept beside them.

Two feature sets that give an entity the same shape read each other's records; of another shape they are migrated
(`operators.window_migrate`), which takes the old shape and the new one and nothing else.

A *track* is what is counted by itself from some time on: the rows of a series, the amounts in them, the values of one
distinct field. A window is covered when every track that it needs is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from operators.features import EntitySpec, Window

PAYMENTS_NAME: Final = "payments"
VALUES: Final = ".value"


class SeriesShape(msgspec.Struct, frozen=True):
    """A series of rows: its name, whether rows have a value, fields hashed, how long rows are kept, windows over it."""

    name: str
    valued: bool
    fields: tuple[str, ...]
    keep_us: int
    windows: tuple[tuple[str, int], ...]

    @property
    def of_payments(self) -> bool:
        """Whether its rows are payments, which always come by."""
        return self.name == PAYMENTS_NAME or self.name.startswith(("filtered ", "refunds"))

    @property
    def width(self) -> int:
        """Words of a row."""
        return 1 + self.valued + len(self.fields)


class Shape(msgspec.Struct, frozen=True):
    """An entity's series and tracks.

    Attributes:
        series: In the order of the record.
        tracks: Name -> number of its series and the labels of the windows that need it.
        lateness_us: How late an event may be and still find its history.
        retention_us: How long an entity not heard of is remembered.
        since_last: Whether the time since the last payment is kept.
    """

    series: tuple[SeriesShape, ...]
    tracks: dict[str, tuple[int, tuple[str, ...]]]
    lateness_us: int
    retention_us: int
    since_last: bool

    def window_numbers(self) -> list[tuple[str, str]]:
        """(name of the series, label) of each window, by the number under which its panes stand."""
        return [(one.name, label) for one in self.series for label, _ in one.windows]

    def fields_of(self, label: str) -> list[str]:
        """Fields of which a window of the payments keeps sketches, in their order in a pane."""
        return [
            field for field in self.series[0].fields if label in self.tracks.get(f"{PAYMENTS_NAME}.{field}", (0, ()))[1]
        ]

    def text(self) -> str:
        """As it is kept; equal for equal shapes."""
        return msgspec.json.encode(self).decode()


def shape_of(
    entity: EntitySpec,
    series: Sequence[tuple[str, bool, int]],
    windows: Sequence[Sequence[Window]],
    keeps_us: Sequence[int],
    lateness_us: int,
    retention_us: int,
) -> Shape:
    """The shape of an entity's records.

    Args:
        entity: Its declaration.
        series: Of each series: name, whether valued, number of fields.
        windows: Of each series, in the order of their numbers.
        keeps_us: Of each series, how long rows are kept.
        lateness_us: Of the feature set.
        retention_us: Of the entity.
    """
    made: list[SeriesShape] = []
    tracks: dict[str, tuple[int, tuple[str, ...]]] = {}
    fields = tuple(one.field for one in entity.distinct)
    for number, ((name, valued, count), over, keep_us) in enumerate(zip(series, windows, keeps_us, strict=True)):
        same = sum(one.name.split("#")[0] == name for one in made)
        unique = f"{name}#{same + 1}" if same else name  # two groups over equal filters are two series
        labels = tuple((window.label, window.us) for window in over)
        made.append(SeriesShape(unique, bool(valued), fields if count else (), keep_us, labels))
        if not labels:
            continue
        tracks[unique] = (number, tuple(label for label, _ in labels))
        if valued:
            told = tuple(window.label for window in entity.windows) if number == 0 else tracks[unique][1]
            tracks[unique + VALUES] = (number, told)
    for one in entity.distinct:
        tracks[f"{PAYMENTS_NAME}.{one.field}"] = (0, tuple(window.label for window in one.windows))
    return Shape(tuple(made), tracks, lateness_us, retention_us, entity.since_last)
