"""The feature set: which numbers are kept for which entity, declared in features.toml, never coded.

features.toml → `load_feature_set` → `FeatureSet`: the order of the features (one slot each in `InFlight.values`), the
entities with what each of them keeps, and a hash that names the whole content.

Order of slots, which a model and a decision record rely on: the bare facts of the payment (`FACTS`), then entity by
entity as declared; within an entity the windows of `amount` (window by window, within a window the aggregates as
listed), distinct counts, fraud rates, filtered windows, streams, since_last, travel, reputation, identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Final, Literal

from operators.inflight import Value
from schemas.events import DeviceEvent, IdentityEvent, Transaction

Kind = Literal["number", "boolean", "string"]

NAN: Final = float("nan")

FACTS: Final[tuple[tuple[str, Kind, str], ...]] = (
    ("amount", "number", "amount of the payment in the base currency"),
    ("hour", "number", "hour of the day of the payment, UTC"),
    ("weekday", "number", "day of the week of the payment, UTC, Monday is 0"),
    ("channel", "string", "channel of the payment"),
    ("payment_type", "string", "type of the payment"),
    ("currency", "string", "currency of the payment"),
    ("country", "string", "country of the payment"),
    ("mcc", "string", "merchant category code"),
    ("entry_mode", "string", "how the card was read"),
    ("three_ds_result", "string", "result of 3-D Secure"),
    ("ip_country", "string", "country of the IP address"),
    ("recurring", "boolean", "whether the payment is a recurring one"),
    ("anonymous_ip", "boolean", "whether the IP address belongs to an anonymising network"),
)
"""Bare facts of the payment: name, kind, what it is. The first slots of every feature set, in this order."""

KEY_SEPARATOR: Final = "\x1f"
KEY_ESCAPE: Final = "\x1b"


@dataclass(frozen=True, slots=True)
class Feature:
    """One value of a payment.

    Attributes:
        name: As in policies and decisions: "card.count_10m", or bare for a fact.
        kind: "number" (absent: NaN), "boolean" or "string" (absent: None).
        entity: Name of the entity, None for a fact.
        doc: What it is, a phrase that completes "<name>: ...", for explanations.
    """

    name: str
    kind: Kind
    entity: str | None
    doc: str


@dataclass(frozen=True, slots=True)
class Window:
    """A length of event time: the label as written ("10m") and the length in µs."""

    label: str
    us: int


@dataclass(frozen=True, slots=True)
class Distinct:
    """Distinct values of a string field of the payment, over windows."""

    field: str
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Filtered:
    """Windows over the payments for which `where`, an expression over bare facts, holds."""

    name: str
    where: str
    windows: tuple[Window, ...]
    amount: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """Counts of another stream's events.

    Attributes:
        event: "device_event" or "identity_event".
        name: What the count is called: the kind, or the declared name of several kinds counted together.
        kinds: Kinds of event that are counted.
        windows: Windows of the count.
    """

    event: str
    name: str
    kinds: tuple[str, ...]
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class EntitySpec:
    """What is kept for one sort of entity.

    Attributes:
        name: As declared.
        index: Place among the entities: `InFlight.keys[index]` is its key.
        key: Fields of the payment that make the key.
        windows: Windows of the payment's amount.
        amount: Aggregates over each of them: count, sum, mean, max, stddev.
        distinct: Distinct counts.
        fraud_rate: Windows of fraud rate, fraud count and label count.
        filtered: Windows over some of the payments.
        streams: Windows over other streams.
        since_last: Whether seconds since the last and the first payment are kept.
        travel: Whether travel speed is kept.
        reputation: Whether device reputation is kept.
        identity: Whether identity status is kept.
        velocity_slots: Half-open range of slots from the first window to since_last.
        travel_slots: Half-open range of slots of travel, empty without.
        reputation_slots: Half-open range of slots of reputation, empty without.
        identity_slots: Half-open range of slots of identity, empty without.
        longest_window_us: The longest of all its windows, 0 without any.
    """

    name: str
    index: int
    key: tuple[str, ...]
    windows: tuple[Window, ...]
    amount: tuple[str, ...]
    distinct: tuple[Distinct, ...]
    fraud_rate: tuple[Window, ...]
    filtered: tuple[Filtered, ...]
    streams: tuple[Stream, ...]
    since_last: bool
    travel: bool
    reputation: bool
    identity: bool
    velocity_slots: tuple[int, int]
    travel_slots: tuple[int, int]
    reputation_slots: tuple[int, int]
    identity_slots: tuple[int, int]
    longest_window_us: int


@dataclass(frozen=True, slots=True)
class Geo:
    """Where places are looked up: MaxMind databases and lists of anonymising networks, all resolved paths."""

    city: Path | None = None
    anonymous: Path | None = None
    anonymous_lists: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class FraudRatePrior:
    """What a fraud rate is without labels, and how many labels that belief is worth."""

    rate: float = 0.005
    strength: float = 20.0


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A parsed features.toml.

    Attributes:
        id: As declared.
        hash: sha256 (hex) of the canonical content, the rates file's included.
        base_currency: ISO 4217 code into which amounts are converted.
        rates_path: Dated rates, None when only the base currency is convertible.
        geo: Databases and lists.
        features: All features in slot order.
        slots: Slot of each feature name.
        entities: In order of declaration.
        allowed_lateness_us: How much later than the shard clock an event may be and still find its whole history.
        seen_ttl_us: For how long a transaction_id is remembered.
        fraud_rate_prior: Shrinks fraud rates.
    """

    id: str
    hash: str
    base_currency: str
    rates_path: Path | None
    geo: Geo
    features: tuple[Feature, ...]
    slots: dict[str, int]
    entities: tuple[EntitySpec, ...]
    allowed_lateness_us: int
    seen_ttl_us: int
    fraud_rate_prior: FraudRatePrior
    _template: list[Value] = field(init=False, repr=False, compare=False)
    _key_makers: dict[type, Callable[[object], list[bytes | None]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        absent: list[Value] = [NAN if feature.kind == "number" else None for feature in self.features]
        object.__setattr__(self, "_template", absent)
        keys = [entity.key for entity in self.entities]
        makers = {cls: _key_maker(cls, keys) for cls in (Transaction, DeviceEvent, IdentityEvent)}
        object.__setattr__(self, "_key_makers", makers)

    def new_values(self) -> list[Value]:
        """A fresh list with one absent value a feature: NaN for numbers, None for booleans and strings."""
        return self._template[:]

    def keys_of(self, event: Transaction | DeviceEvent | IdentityEvent) -> list[bytes | None]:
        r"""The key of each entity in `event`; None where the event lacks one of the key's fields.

        Of several fields the values are joined with \x1f; \x1f and \x1b inside a value are escaped, so that two
        different pairs never share a key.
        """
        return self._key_makers[type(event)](event)

    def key_of(self, values: list[str]) -> bytes:
        """The key of an entity with these values of its key's fields, as `keys_of` makes it."""
        return values[0].encode() if len(values) == 1 else join_key(values)

    def names(self) -> Mapping[str, tuple[int, Kind]]:
        """Slot and kind of every feature, for `compile_expression`."""
        return {feature.name: (slot, feature.kind) for slot, feature in enumerate(self.features)}


def fact_names() -> Mapping[str, tuple[int, Kind]]:
    """Slot and kind of the bare facts, for `compile_expression` of a `where`."""
    return {name: (slot, kind) for slot, (name, kind, _) in enumerate(FACTS)}


def join_key(parts: list[str]) -> bytes:
    """Key of several values, unambiguous whatever the values hold."""
    joined = KEY_SEPARATOR.join(parts)
    if joined.count(KEY_SEPARATOR) != len(parts) - 1 or KEY_ESCAPE in joined:
        escaped = [
            part.replace(KEY_ESCAPE, KEY_ESCAPE + KEY_ESCAPE).replace(KEY_SEPARATOR, KEY_ESCAPE + KEY_SEPARATOR)
            for part in parts
        ]
        joined = KEY_SEPARATOR.join(escaped)
    return joined.encode()


def split_key(key: bytes) -> list[str]:
    """The values that `join_key` made a key of; a key of one value comes back as it is."""
    parts = [""]
    escaped = False
    for char in key.decode(errors="replace"):
        if escaped:
            parts[-1] += char
            escaped = False
        elif char == KEY_ESCAPE:
            escaped = True
        elif char == KEY_SEPARATOR:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _key_maker(cls: type, keys: list[tuple[str, ...]]) -> Callable[[object], list[bytes | None]]:
    """How to take all keys from an event of `cls`: one attrgetter for all fields, since this runs for every event."""
    known = set(cls.__struct_fields__)  # type: ignore[attr-defined]  # every event is a msgspec.Struct
    fields = list(dict.fromkeys(name for key in keys if known.issuperset(key) for name in key))
    places = [tuple(fields.index(name) for name in key) if known.issuperset(key) else () for key in keys]
    single = [place[0] if len(place) == 1 else -1 for place in places]
    pairs = [(at, place) for at, place in enumerate(places) if len(place) > 1]
    if not fields:
        return lambda _event: [None] * len(keys)
    take = attrgetter(*fields, fields[0])  # at least two names, so that a tuple comes out

    def make(event: object) -> list[bytes | None]:
        values = take(event)
        made = [None if at < 0 or (value := values[at]) is None else value.encode() for at in single]
        for at, place in pairs:
            parts = [values[index] for index in place]
            if None not in parts:
                made[at] = join_key(parts)
        return made

    return make


def load_feature_set(path: Path) -> FeatureSet:
    """Parse features.toml.

    Args:
        path: The file, or the profile folder that holds it.

    Raises:
        ProfileError: naming file, key, value and what was expected; correct the file, nothing has been started.
    """
    from operators.feature_parse import parse_feature_set  # noqa: PLC0415  # it builds these types

    return parse_feature_set(path / "features.toml" if path.is_dir() else path)
