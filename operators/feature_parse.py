"""features.toml read strictly: every key is known, every value is of its type, or the start is refused by name."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

from operators.features import (
    FACTS,
    Distinct,
    EntitySpec,
    Feature,
    FeatureSet,
    Filtered,
    FraudRatePrior,
    Geo,
    Kind,
    Stream,
    Window,
    fact_names,
)
from operators.section import Section, check_name
from schemas.errors import ProfileError
from schemas.events import DeviceEvent, IdentityEvent

AGGREGATES: Final = ("count", "sum", "mean", "max", "stddev")
KEY_FIELDS: Final = (
    "account_id", "card_id", "device_id", "ip", "merchant_id", "terminal_id", "counterparty_id", "bin", "last4", "mcc",
    "channel", "payment_type", "currency", "country", "entry_mode", "three_ds_result", "transaction_id",
)  # fmt: skip
STREAM_KINDS: Final = {
    "device_event": (
        DeviceEvent,
        ("seen", "login", "login_failed", "fingerprint_changed", "emulator_detected", "rooted", "blocked", "unblocked"),
    ),
    "identity_event": (
        IdentityEvent,
        ("opened", "kyc_passed", "kyc_failed", "sanctions_hit", "pep_hit", "hit_cleared", "credentials_changed",
         "mfa_passed", "mfa_failed", "address_changed", "closed"),
    ),
}  # fmt: skip
UNIT_NAMES: Final = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
_TRAVEL: Final = (
    ("speed_kmh", "speed needed to come from the previous place of the {e}, in km/h"),
    ("distance_km", "distance from the previous place of the {e}, in km"),
    ("travel_seconds", "seconds since the {e} was at its previous place"),
)
_REPUTATION: Final[tuple[tuple[str, Kind, str], ...]] = (
    ("blocked", "boolean", "whether the {e} is blocked"),
    ("rooted", "boolean", "whether the {e} is rooted"),
    ("emulator", "boolean", "whether the {e} is an emulator"),
    ("accounts", "number", "accounts seen on the {e} so far, this one included"),
    ("seconds_since_fingerprint_changed", "number", "seconds since the fingerprint of the {e} changed"),
    ("seconds_since_first_event", "number", "seconds since the {e} was first heard of"),
)
_IDENTITY: Final[tuple[tuple[str, Kind, str], ...]] = (
    ("kyc", "string", "result of the know-your-customer check of the {e}"),
    ("sanctions_hit", "boolean", "whether the holder of the {e} has a sanctions hit that is not cleared"),
    ("pep_hit", "boolean", "whether the holder of the {e} has a politically-exposed-person hit that is not cleared"),
    ("closed", "boolean", "whether the {e} is closed"),
    ("seconds_since_opened", "number", "seconds since the {e} was opened"),
    ("seconds_since_credentials_changed", "number", "seconds since the credentials of the {e} changed"),
    ("seconds_since_address_changed", "number", "seconds since the address of the {e} changed"),
    ("mfa", "string", "last result of multi-factor authentication of the {e}"),
    ("seconds_since_mfa", "number", "seconds since the last multi-factor authentication of the {e}"),
)
_AMOUNT_DOCS: Final = {
    "count": "number of {what} of this {e} in the last {w}",
    "sum": "sum of the amounts of {what} of this {e} in the last {w}",
    "mean": "mean amount of {what} of this {e} in the last {w}",
    "max": "largest amount of {what} of this {e} in the last {w}",
    "stddev": "sample standard deviation of the amounts of {what} of this {e} in the last {w}",
}


def parse_feature_set(path: Path) -> FeatureSet:
    """Parse the file at `path`; see `operators.features.load_feature_set`."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        text = f"{path}: cannot be read ({error.strerror}); expected a feature set, features.toml"
        raise ProfileError(text) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        text = f"{path}: is not TOML: {error}"
        raise ProfileError(text) from error
    top = Section(path, "", content)
    set_id = top.text("id", expected="the feature set's id, such as 'cards-1'")
    base = top.text("base_currency", expected="an ISO 4217 code, such as 'EUR'")
    if not re.fullmatch(r"[A-Z]{3}", base):
        top.refuse("base_currency", base, "an ISO 4217 code, such as 'EUR'")
    rates_path = _file(top, "rates")
    geo = _geo(top.table("geo"))
    allowed_lateness_us = top.us("allowed_lateness", "24h")
    seen_ttl_us = top.us("seen_ttl", "7d")
    prior = _prior(top.table("fraud_rate_prior"))
    features = [Feature(name, kind, None, doc) for name, kind, doc in FACTS]
    entities: list[EntitySpec] = []
    declared = top.table("entities")
    for name in declared.keys():  # noqa: SIM118  # a Section, not a dict
        check_name(declared, name, name)
        if name in fact_names():
            declared.refuse(name, name, "a name that is not a fact of the payment")
        entities.append(_entity(declared.table(name), name, len(entities), features))
    top.close(("id", "base_currency", "rates", "allowed_lateness", "seen_ttl", "fraud_rate_prior", "geo", "entities"))
    slots: dict[str, int] = {}
    for slot, feature in enumerate(features):
        if feature.name in slots:
            text = f"{path}: feature {feature.name!r} is declared twice; expected different names"
            raise ProfileError(text)
        slots[feature.name] = slot
    return FeatureSet(
        id=set_id,
        hash=_hash(content, rates_path),
        base_currency=base,
        rates_path=rates_path,
        geo=geo,
        features=tuple(features),
        slots=slots,
        entities=tuple(entities),
        allowed_lateness_us=allowed_lateness_us,
        seen_ttl_us=seen_ttl_us,
        fraud_rate_prior=prior,
    )


def _hash(content: dict[str, Any], rates_path: Path | None) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    digest = hashlib.sha256(canonical.encode())
    if rates_path is not None:
        digest.update(b"\x00" + rates_path.read_bytes())
    return digest.hexdigest()


def _file(section: Section, key: str) -> Path | None:
    value = section.take(key)
    return None if value is None else _resolve(section, key, value)


def _resolve(section: Section, key: str, value: object) -> Path:
    if not isinstance(value, str) or not value:
        section.refuse(key, value, "a path, relative to the profile")
    path = section.file.parent / value
    if not path.is_file():
        section.refuse(key, value, f"a file; there is none at {path}")
    return path


def _geo(section: Section) -> Geo:
    city = _file(section, "city")
    anonymous = _file(section, "anonymous")
    names = section.texts("anonymous_lists", None, "paths, relative to the profile")
    section.close(("city", "anonymous", "anonymous_lists"))
    return Geo(city, anonymous, tuple(_resolve(section, "anonymous_lists", name) for name in names))


def _prior(section: Section) -> FraudRatePrior:
    numbers = {"rate": 0.005, "strength": 20.0}
    for key, expected, top in (("rate", "a share from 0 to 1", 1.0), ("strength", "a number of labels > 0", 1e9)):
        value = section.take(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= top:
            section.refuse(key, value, expected)
        if key == "strength" and value == 0:
            section.refuse(key, value, expected)
        numbers[key] = float(value)
    section.close(("rate", "strength"))
    return FraudRatePrior(**numbers)


def _entity(section: Section, name: str, index: int, features: list[Feature]) -> EntitySpec:
    """Parse one entity and append its features to `features`."""
    key = _key(section)
    windows = section.windows("windows")
    amount = section.texts("amount", AGGREGATES, f"aggregates out of {', '.join(AGGREGATES)}")
    if bool(windows) != bool(amount):
        section.refuse("windows", [window.label for window in windows], "windows and amount together, or neither")
    distinct = _distinct(section.table("distinct"))
    fraud_rate = section.windows("fraud_rate")
    filtered = [_filtered(one) for one in section.tables("filtered")]
    streams = [stream for one in section.tables("streams") for stream in _streams(one, key)]
    since_last, travel = section.truth("since_last"), section.truth("travel")
    reputation, identity = section.truth("reputation"), section.truth("identity")
    section.close(
        ("key", "windows", "amount", "distinct", "fraud_rate", "filtered", "streams", "since_last", "travel",
         "reputation", "identity")
    )  # fmt: skip
    if reputation and key != ("device_id",):
        section.refuse("reputation", reputation, "key = 'device_id' beside it")
    if identity and key != ("account_id",):
        section.refuse("identity", identity, "key = 'account_id' beside it")
    start = len(features)

    def add(suffix: str, doc: str, kind: Kind = "number") -> None:
        features.append(Feature(f"{name}.{suffix}", kind, name, doc.format(e=name)))

    def add_amounts(prefix: str, what: str, over: tuple[Window, ...], aggregates: tuple[str, ...]) -> None:
        for window in over:
            for aggregate in aggregates:
                doc = _AMOUNT_DOCS[aggregate].format(what=what, e=name, w=_spoken(window.label))
                add(f"{prefix}{aggregate}_{window.label}", doc)

    add_amounts("", "payments", windows, amount)
    for one in distinct:
        for window in one.windows:
            doc = f"number of different {one.field} values of this {name} in the last {_spoken(window.label)}"
            add(f"distinct_{one.field}_{window.label}", doc)
    for window in fraud_rate:
        last = f"in the last {_spoken(window.label)}"
        add(f"fraud_rate_{window.label}", f"share of fraud among labels of this {name} {last}, shrunk to the prior")
        add(f"fraud_count_{window.label}", f"weighted number of fraud labels of this {name} {last}")
        add(f"label_count_{window.label}", f"weighted number of labels of this {name} {last}")
    for group in filtered:
        add_amounts(f"{group.name}_", f"payments with {_plain(group.where)}", group.windows, group.amount)
    for stream in streams:
        for window in stream.windows:
            doc = f"number of {', '.join(stream.kinds)} events of this {name} in the last {_spoken(window.label)}"
            add(f"{stream.name}_count_{window.label}", doc)
    if since_last:
        add("seconds_since_last", "seconds since the previous payment of this {e}")
        add("seconds_since_first_seen", "seconds since the first payment of this {e}")
    velocity_stop = len(features)
    for suffix, doc in _TRAVEL if travel else ():
        add(suffix, doc)
    travel_stop = len(features)
    for suffix, kind, doc in _REPUTATION if reputation else ():
        add(suffix, doc, kind)
    reputation_stop = len(features)
    for suffix, kind, doc in _IDENTITY if identity else ():
        add(suffix, doc, kind)
    if len(features) == start:
        section.refuse("key", key, "something to keep beside it: windows, distinct, fraud_rate, since_last, ...")
    lengths = [*windows, *fraud_rate]
    holders: list[Distinct | Filtered | Stream] = [*distinct, *filtered, *streams]
    lengths.extend(window for holder in holders for window in holder.windows)
    return EntitySpec(
        name=name,
        index=index,
        key=key,
        windows=windows,
        amount=amount,
        distinct=distinct,
        fraud_rate=fraud_rate,
        filtered=tuple(filtered),
        streams=tuple(streams),
        since_last=since_last,
        travel=travel,
        reputation=reputation,
        identity=identity,
        velocity_slots=(start, velocity_stop),
        travel_slots=(velocity_stop, travel_stop),
        reputation_slots=(travel_stop, reputation_stop),
        identity_slots=(reputation_stop, len(features)),
        longest_window_us=max((window.us for window in lengths), default=0),
    )


def _key(section: Section) -> tuple[str, ...]:
    value = section.take("key")
    fields = [value] if isinstance(value, str) else value
    expected = f"a string field of the payment, or a list of them: {', '.join(KEY_FIELDS)}"
    if not isinstance(fields, list) or not fields or any(one not in KEY_FIELDS for one in fields):
        section.refuse("key", value, expected)
    if len(set(fields)) != len(fields):
        section.refuse("key", value, "different fields, none twice")
    return tuple(fields)


def _distinct(section: Section) -> tuple[Distinct, ...]:
    found = []
    for name in section.keys():  # noqa: SIM118  # a Section, not a dict
        if name not in KEY_FIELDS:
            section.refuse(name, section.take(name), f"a string field of the payment: {', '.join(KEY_FIELDS)}")
        windows = section.windows(name)
        if not windows:
            section.refuse(name, [], "at least one window")
        found.append(Distinct(name, windows))
    return tuple(found)


def _filtered(section: Section) -> Filtered:
    from operators.expression import compile_expression  # noqa: PLC0415  # it needs the feature set's types

    name = section.name("name")
    where = section.text("where")
    windows = section.windows("windows")
    amount = section.texts("amount", AGGREGATES, f"aggregates out of {', '.join(AGGREGATES)}")
    section.close(("name", "where", "windows", "amount"))
    if not windows or not amount:
        section.refuse("windows" if amount else "amount", [], "at least one")
    compile_expression(where, fact_names(), f"{section.file}: {section.where}.where")
    return Filtered(name, where, windows, amount)


def _streams(section: Section, key: tuple[str, ...]) -> list[Stream]:
    event = section.text("event")
    if event not in STREAM_KINDS:
        section.refuse("event", event, f"one of {', '.join(STREAM_KINDS)}")
    contract, known = STREAM_KINDS[event]
    missing = [name for name in key if name not in contract.__struct_fields__]
    if missing:
        section.refuse("event", event, f"a stream whose events hold the entity's key; these have no {missing[0]}")
    kinds = section.texts("kinds", known, f"kinds of {event}: {', '.join(known)}")
    windows = section.windows("windows")
    together = section.name("name") if "name" in section.keys() else None  # noqa: SIM118  # a Section, not a dict
    section.close(("event", "kinds", "windows", "name"))
    if not kinds or not windows:
        section.refuse("windows" if kinds else "kinds", [], "at least one")
    if together is not None:
        return [Stream(event, together, kinds, windows)]
    return [Stream(event, kind, (kind,), windows) for kind in kinds]


def _spoken(label: str) -> str:
    """'10m' as '10 minutes', '1d' as 'day'."""
    number, unit = label[:-1], UNIT_NAMES[label[-1]]
    return unit if number == "1" else f"{number} {unit}s"


def _plain(where: str) -> str:
    """`where` safe for str.format."""
    return where.replace("{", "{{").replace("}", "}}")
