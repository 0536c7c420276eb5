"""Model releases: what models.v1 says, who may say it, and who serves by it.

A release is a record of the contract model_release: this version of this model, that artefact, may serve in this stage.
It is signed over everything else in it (HMAC-SHA256; `state.keys.ModelKeys`), so neither a record nor an artefact that
somebody else wrote is served. models.v1 is compacted by model id *and* stage: of each model, for each stage, the last
release is kept. What serves follows from those:

- A model's standing is its latest release, by created_at.
- The champion is, of the releases with stage champion, the latest of all, unless its model was retired since. So a
  promotion is one record, and a rollback is one: the earlier champion's artefact, announced again.
- The canary is the latest of the releases with stage canary whose model stands there; at most one.
- Challengers are all models that stand there.

A freeze is a release too, of the model id "*", stage retired to freeze and challenger to thaw: it names no artefact,
only whether the learner may move models by itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

from schemas.errors import ReleaseError
from schemas.release_reasons import BAD_RECORD, BAD_SIGNATURE, NOT_SIGNED
from schemas.times import format_rfc3339_us
from state.keys import ModelKeys

Stage = Literal["challenger", "canary", "champion", "retired"]
STAGES: Final[tuple[Stage, ...]] = ("challenger", "canary", "champion", "retired")
FREEZE: Final = "*"
"""Model id of the record that says whether the learner may move models."""


@dataclass(frozen=True, slots=True)
class Release:
    """One release; the contract's fields.

    Attributes:
        created_at_us: Later ones overrule earlier ones.
        author: None: the learner.
        signature: Empty: not signed yet.
    """

    model_id: str
    version: str
    stage: Stage
    feature_set_id: str
    feature_set_hash: str
    metrics: Mapping[str, float]
    artefact_uri: str
    sha256: str
    created_at_us: int
    author: str | None = None
    reason: str | None = None
    signature: str = ""

    @property
    def key(self) -> bytes:
        """Key on the topic: what compaction keeps the last of."""
        return f"{self.model_id}/{self.stage}".encode()

    def content(self) -> bytes:
        """What is signed: everything but the signature, in one form whatever encoding it came in."""
        record = self.record()
        del record["signature"]
        record["metrics"] = {name: repr(float(value)) for name, value in sorted(self.metrics.items())}
        return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def signed(self, keys: ModelKeys) -> Release:
        """The same with its signature."""
        return replace(self, signature=keys.sign(self.content()))

    def record(self) -> dict[str, Any]:
        """As the contract has it, times in microseconds."""
        return {
            "model_id": self.model_id,
            "version": self.version,
            "stage": self.stage,
            "feature_set_id": self.feature_set_id,
            "feature_set_hash": self.feature_set_hash,
            "metrics": dict(self.metrics),
            "artefact_uri": self.artefact_uri,
            "sha256": self.sha256,
            "signature": self.signature,
            "created_at": self.created_at_us,
            "author": self.author,
            "reason": self.reason,
        }


def read_release(record: Mapping[str, Any], keys: ModelKeys) -> Release:
    """A release as it was announced, and by whom it may be.

    Args:
        record: Decoded, times in microseconds; nothing of it is trusted.
        keys: Of those who may release.

    Raises:
        ReleaseError: A field is missing or wrong, or nobody of ours signed it.
    """
    texts = {}
    for name in ("model_id", "version", "stage", "feature_set_id", "feature_set_hash", "artefact_uri", "sha256"):
        texts[name] = _text(record, name)
    if texts["stage"] not in STAGES:
        raise ReleaseError(BAD_RECORD, f"stage: expected one of {', '.join(STAGES)}, found {texts['stage'][:40]!r}")
    created = record.get("created_at")
    if type(created) is not int or created <= 0:
        raise ReleaseError(BAD_RECORD, "created_at: expected a time")
    metrics = record.get("metrics")
    if not isinstance(metrics, Mapping) or not all(type(value) in (int, float) for value in metrics.values()):
        raise ReleaseError(BAD_RECORD, "metrics: expected a map of numbers")
    stage = cast("Stage", texts.pop("stage"))
    release = Release(
        **texts,
        stage=stage,
        metrics={str(name): float(value) for name, value in metrics.items()},
        created_at_us=created,
        author=_optional(record, "author"),
        reason=_optional(record, "reason"),
        signature=_text(record, "signature", empty=True),
    )
    if not release.signature:
        raise ReleaseError(NOT_SIGNED, f"{release.model_id} {release.version}: it bears no signature")
    if not keys.signed(release.content(), release.signature):
        message = (
            f"{release.model_id} {release.version}: the signature is of none of the keys {', '.join(keys.key_ids)}; "
            "the record was altered, or the key of who released it is missing here"
        )
        raise ReleaseError(BAD_SIGNATURE, message)
    return release


def _text(record: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = record.get(name)
    if type(value) is not str or len(value) > 4_096 or not (value or empty or name in ("artefact_uri", "sha256")):
        raise ReleaseError(BAD_RECORD, f"{name}: expected a text")
    return value


def _optional(record: Mapping[str, Any], name: str) -> str | None:
    return None if record.get(name) is None else _text(record, name, empty=True)


@dataclass(frozen=True, slots=True)
class Standing:
    """Who serves.

    Attributes:
        champion: Its release, None: nobody was released yet.
        canary: Likewise.
        challengers: By model id.
        previous: The champion before this one, None when the log holds none.
        frozen: The learner may move nobody.
    """

    champion: Release | None
    canary: Release | None
    challengers: tuple[Release, ...]
    previous: Release | None
    frozen: bool


class Register:
    """All releases heard of, the last one of each model and stage."""

    def __init__(self, releases: Iterable[Release] = ()) -> None:
        """Begin with these."""
        self._last: dict[tuple[str, Stage], Release] = {}
        self._freeze: Release | None = None
        for release in releases:
            self.hear(release)

    def hear(self, release: Release) -> bool:
        """Take a release in; whether it says anything new. The order in which they are heard does not matter."""
        if release.model_id == FREEZE:
            if self._freeze is not None and self._freeze.created_at_us >= release.created_at_us:
                return False
            self._freeze = release
            return True
        key = (release.model_id, release.stage)
        known = self._last.get(key)
        if known is not None and _age(known) >= _age(release):
            return False
        self._last[key] = release
        return True

    def latest(self, model_id: str) -> Release | None:
        """The latest release of a model, in whatever stage."""
        return max((one for (of, _), one in self._last.items() if of == model_id), key=_age, default=None)

    def releases(self) -> list[Release]:
        """All that are known, the latest first."""
        return sorted(self._last.values(), key=_age, reverse=True)

    def last_us(self) -> int:
        """The latest created_at; a new release must be later."""
        known = [one.created_at_us for one in self._last.values()]
        if self._freeze is not None:
            known.append(self._freeze.created_at_us)
        return max(known, default=0)

    def standing(self) -> Standing:
        """Who serves by what was heard."""
        stands = {release.model_id: release for release in reversed(self.releases())}
        crowned = [one for one in self.releases() if one.stage == "champion"]
        serving = [one for one in crowned if not self._retired_since(one)]
        champion = serving[0] if serving else None
        taken = champion.model_id if champion is not None else None
        others = [one for one in stands.values() if one.model_id != taken]
        canaries = sorted((one for one in others if one.stage == "canary"), key=_age, reverse=True)
        return Standing(
            champion=champion,
            canary=canaries[0] if canaries else None,
            challengers=tuple(
                sorted((one for one in others if one.stage == "challenger"), key=lambda one: one.model_id)
            ),
            previous=next((one for one in serving[1:] if one.model_id != taken), None),
            frozen=self._freeze is not None and self._freeze.stage == "retired",
        )

    def _retired_since(self, crowned: Release) -> bool:
        retired = self._last.get((crowned.model_id, "retired"))
        return retired is not None and _age(retired) > _age(crowned)


def freeze_record(*, frozen: bool, author: str, reason: str, created_at_us: int) -> Release:
    """The release that stops the learner from moving models, or lets it again; not signed yet."""
    stage: Stage = "retired" if frozen else "challenger"
    return Release(FREEZE, "-", stage, "-", "-", {}, "", "", created_at_us, author, reason)


def describe_release(release: Release) -> str:
    """One line, for logs."""
    figures = ", ".join(
        f"{name} {value:.4g}" for name, value in sorted(release.metrics.items()) if math.isfinite(value)
    )
    who = "the learner" if release.author is None else release.author
    return (
        f"{release.model_id} {release.version} as {release.stage}, by {who} at "
        f"{format_rfc3339_us(release.created_at_us)}{f' ({figures})' if figures else ''}"
    )


def _age(release: Release) -> tuple[int, str]:
    return release.created_at_us, release.version
