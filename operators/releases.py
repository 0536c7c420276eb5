"""Who is champion, canary and challenger, by what was announced: records of models.v1 folded in order, engine-free.

Whoever reads the topic comes to the same roles: `weir decide`, `weir learn`, `weir models`. A record says what its
model is from there on. A new champion makes the one before it a challenger, and so does a new canary.

models.v1 is compacted. Its keys are `<model id>/<stage>/<origin>`, so of each model, stage and origin (learn, human,
automatic) the last record survives. Every champion record names the champion before it, so that one survives as well.
The champion is the one of the latest champion record that took effect. A record of a human that is `frozen` stands
until the next record of a human: no champion and no other canary that the learner or criteria announce behind it takes
effect. As the keys of a human and of the learner differ, such a record cannot push the frozen one out of the topic
either. What is sent back to challenger is, frozen or not: it decides less, never more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from schemas.errors import ContractError
from schemas.reasons import MISSING_FIELD, UNKNOWN_VALUE, WRONG_TYPE

CONTRACT: Final = "model_release"
CHALLENGER: Final = "challenger"
CANARY: Final = "canary"
CHAMPION: Final = "champion"
RETIRED: Final = "retired"
STAGES: Final = (CHALLENGER, CANARY, CHAMPION, RETIRED)
LEARN: Final = "learn"
HUMAN: Final = "human"
AUTOMATIC: Final = "automatic"
ORIGINS: Final = (LEARN, HUMAN, AUTOMATIC)


@dataclass(frozen=True, slots=True)
class Release:
    """One record of models.v1, its signature checked.

    Attributes:
        record: All fields, times in microseconds.
        offset: In the topic.
    """

    record: Mapping[str, Any]
    offset: int

    @property
    def sha256(self) -> str:
        """Of the artefact."""
        return str(self.record["sha256"])

    @property
    def model_id(self) -> str:
        """The model."""
        return str(self.record["model_id"])

    @property
    def stage(self) -> str:
        """What it may do."""
        return str(self.record["stage"])

    @property
    def name(self) -> str:
        """Model and version, for people."""
        return f"{self.record['model_id']} {self.record['version']}"

    @property
    def human(self) -> bool:
        """Whether a person announced it."""
        return self.record.get("origin") == HUMAN

    @property
    def frozen(self) -> bool:
        """Whether nothing but a person may follow."""
        return bool(self.record.get("frozen"))


def message_key(record: Mapping[str, Any]) -> bytes:
    """The key by which the topic is compacted."""
    return f"{record['model_id']}/{record['stage']}/{record.get('origin') or LEARN}".encode()


def checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as read, its fields checked as far as deciding goes by them.

    Raises:
        ContractError: A field is missing or of another type.
    """
    for name in ("model_id", "version", "stage", "feature_set_id", "feature_set_hash", "artefact_uri", "sha256"):
        value = record.get(name)
        if value is None:
            raise ContractError(MISSING_FIELD, f"{name}: a release has one")
        if type(value) is not str:
            raise ContractError(WRONG_TYPE, f"{name}: expected a string")
    if record["stage"] not in STAGES:
        raise ContractError(UNKNOWN_VALUE, f"stage: expected one of {', '.join(STAGES)}")
    if (record.get("origin") or LEARN) not in ORIGINS:
        raise ContractError(UNKNOWN_VALUE, f"origin: expected one of {', '.join(ORIGINS)}")
    if type(record.get("created_at")) is not int:
        raise ContractError(WRONG_TYPE, "created_at: expected a time")
    metrics = record.get("metrics")
    if not isinstance(metrics, dict):
        raise ContractError(WRONG_TYPE, "metrics: expected a map of numbers")
    told = dict(record)
    told["metrics"] = {str(name): float(value) for name, value in metrics.items() if value is not None}
    return told


class ReleaseLog:
    """The fold.

    Attributes:
        champion: The latest champion that took effect, None before the first.
        canary: The latest canary that took effect and was not moved since.
        challengers: By model: the latest release of each other one.
        latest: By (model id, stage): the latest record, whether it took effect or not.
        held_up: Records that did not take effect since the last freeze.
    """

    def __init__(self) -> None:
        self.champion: Release | None = None
        self.canary: Release | None = None
        self.challengers: dict[str, Release] = {}
        self.latest: dict[tuple[str, str], Release] = {}
        self.held_up = 0

    @property
    def frozen(self) -> bool:
        """Whether only a person may change the champion, or start a canary."""
        return self.champion is not None and self.champion.frozen

    def apply(self, release: Release) -> bool:
        """Take the next record; whether the champion is another one now."""
        stage, model = release.stage, release.model_id
        self.latest[model, stage] = release
        if self.frozen and not release.human and self._is_move(release):
            self.held_up += 1
            return False
        if stage == CHAMPION:
            return self._crown(release)
        if self.champion is not None and self.champion.model_id == model:
            return False  # a newer state of the champion, which a person may promote
        canary = self.canary
        if stage == CANARY:
            if canary is not None and canary.model_id != model:
                self.challengers[canary.model_id] = canary
            self.canary = release
            self.challengers.pop(model, None)
            return False
        if canary is not None and canary.model_id == model:
            self.canary = None
        if stage == RETIRED:
            self.challengers.pop(model, None)
        else:
            self.challengers[model] = release
        return False

    def _is_move(self, release: Release) -> bool:
        """Whether it lets another artefact be champion, or another model canary."""
        if release.stage == CANARY:
            return self.canary is None or self.canary.model_id != release.model_id
        return release.stage == CHAMPION

    def _crown(self, release: Release) -> bool:
        before, model = self.champion, release.model_id
        self.champion = release
        self.held_up = 0
        if self.canary is not None and self.canary.model_id == model:
            self.canary = None
        self.challengers.pop(model, None)
        if before is not None and before.model_id != model:
            self.challengers[before.model_id] = before
        return before is None or before.sha256 != release.sha256


def follows(champion: Release | None, sha256: str) -> dict[str, str | None]:
    """The fields that name the champion before; those of the present one when it announces itself again."""
    if champion is None:
        return {"previous_version": None, "previous_uri": None, "previous_sha256": None}
    record = champion.record
    if champion.sha256 == sha256:
        return {name: record.get(name) for name in ("previous_version", "previous_uri", "previous_sha256")}
    return {
        "previous_version": record["version"],
        "previous_uri": record["artefact_uri"],
        "previous_sha256": record["sha256"],
    }
