"""Decisions of the deciding flow → what the label join takes: the payment they are about, and what was scored.

What `weir decide` publishes is read back here like any other input: it may be damaged, or of another deployment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from flows.ingest import dead_item
from flows.own_records import payment_of, text_of, time_of
from operators.features import FeatureSet
from operators.inflight import PAYMENT, InFlight, Value
from operators.label_join import KEPT, Scored
from schemas.codec import decode_json_mapping
from schemas.errors import ContractError
from schemas.reasons import MISSING_FIELD, OUT_OF_RANGE, TOO_LARGE, UNKNOWN_VALUE, WRONG_TYPE

CONTRACT: Final = "decision"
MOST_BYTES: Final = 1 << 20
"""Of a decision: as much as its topic takes by default. Limits of payments do not apply: features are many."""
_WHAT: Final = "decision"
_ACTIONS: Final = ("approve", "challenge", "review", "decline")


def decision_input(
    feature_set: FeatureSet,
) -> Callable[[bytes | dict[str, Any], tuple[str, int, int]], InFlight]:
    """What makes an item of a decision: kind PAYMENT, with `Scored` in its `detail`.

    Args:
        feature_set: Of this flow: values of decisions under it are kept by their places.
    """
    places = _Places(feature_set)

    def make(payload: bytes | dict[str, Any], origin: tuple[str, int, int]) -> InFlight:
        try:
            if isinstance(payload, bytes) and len(payload) > MOST_BYTES:
                raise ContractError(TOO_LARGE, f"{len(payload)} bytes, allowed are {MOST_BYTES}")
            record = decode_json_mapping(CONTRACT, payload) if isinstance(payload, bytes) else payload
            scored = _scored(record, places)
            payment = payment_of(record, "event_time", _WHAT)
        except ContractError as error:
            return dead_item(payload, origin, error)
        # What the join tells a retry from a contradiction by: two decisions that differ in these are two.
        said = {name: str(record.get(name)) for name in ("action", "score")}
        item = InFlight(PAYMENT, (), msgspec.structs.replace(payment, attributes=said), origin, 0, [], [])
        item.detail = scored
        return item

    return make


class _Places:
    """Where each value of the flow's feature set stands, and which absent ones are numbers: NaN where scored."""

    def __init__(self, feature_set: FeatureSet) -> None:
        self.hash = feature_set.hash
        self.names = [feature.name for feature in feature_set.features]
        self.numbers = [feature.kind == "number" for feature in feature_set.features]

    def values(self, features: Mapping[str, Any]) -> list[Value]:
        """The values as they were scored.

        Raises:
            ContractError: They are not those of the feature set that the decision names.
        """
        if features.keys() == {"feature_set", "values"}:
            told = features["values"]
        elif features.keys() == set(self.names):
            told = [features[name] for name in self.names]
        else:
            told = None
        if not isinstance(told, list) or len(told) != len(self.names):
            raise ContractError(WRONG_TYPE, f"features: expected the {len(self.names)} of the feature set named")
        values: list[Value] = []
        for value, number, name in zip(told, self.numbers, self.names, strict=True):
            if value is None:
                values.append(math.nan if number else None)
            elif number:
                if type(value) not in (int, float):
                    raise ContractError(WRONG_TYPE, f"features: {name}: expected a number")
                values.append(float(value))
            elif type(value) in (bool, str):
                values.append(value)
            else:
                raise ContractError(WRONG_TYPE, f"features: {name}: expected a boolean or a string")
        return values


def _scored(record: Mapping[str, Any], places: _Places) -> Scored:
    for name in ("decision_id", "action", "proposed_action"):
        text_of(record, name, _WHAT)
    time_of(record, "decided_at", _WHAT)
    for name in ("action", "proposed_action"):
        if record[name] not in _ACTIONS:
            raise ContractError(UNKNOWN_VALUE, f"{name}: expected one of {', '.join(_ACTIONS)}")
    if type(record.get("amount_minor")) is not int:
        raise ContractError(WRONG_TYPE, "amount_minor: expected a whole number")
    for name in ("score", "propensity"):
        value = record.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1):
            raise ContractError(OUT_OF_RANGE, f"{name}: expected a number from 0 to 1")
    versions, features = record.get("versions"), record.get("features")
    if not isinstance(versions, dict) or type(versions.get("feature_set_hash")) is not str:
        raise ContractError(MISSING_FIELD, "versions: a decision has them, feature_set_hash among them")
    if not isinstance(features, dict):
        raise ContractError(MISSING_FIELD, "features: a decision has them")
    if not isinstance(record.get("challenger_scores"), list | None):
        raise ContractError(WRONG_TYPE, "challenger_scores: expected a list")
    own = versions["feature_set_hash"] == places.hash
    return Scored(
        decision={name: record.get(name) for name in KEPT},
        versions=versions,
        values=places.values(features) if own else None,
        features=None if own else features,
        shadows=_shadows(record.get("challenger_scores")),
    )


def _shadows(told: Any) -> dict[str, float | None]:
    """What challengers said, by id.

    Raises:
        ContractError: It is not as the contract has it.
    """
    found: dict[str, float | None] = {}
    for one in told or ():
        if not isinstance(one, dict) or type(one.get("model_id")) is not str:
            raise ContractError(WRONG_TYPE, "challenger_scores: expected records with a model_id")
        score = one.get("score")
        if score is not None and (type(score) not in (int, float) or not 0 <= score <= 1):
            raise ContractError(OUT_OF_RANGE, "challenger_scores: score: expected a number from 0 to 1")
        found[one["model_id"]] = score
    return found
