"""A release of the learner → artefact, card and record in the store → the signed record for models.v1."""

from __future__ import annotations

from typing import Any

from flows.logs import event_log, fields
from flows.model_hooks import ModelHooks, NoModelHooks
from operators.features import FeatureSet
from operators.learn_made import Made
from operators.model_card import card_html, card_markdown, figures
from operators.releases import CONTRACT
from schemas.codec import encode_json
from schemas.errors import BackupError
from schemas.signing import SIGNATURE, SigningKeys
from state.artefacts import ArtefactStore


class Announcer:
    """Stores and signs; see `flows.learn_encode.Announce`."""

    def __init__(
        self,
        store: ArtefactStore,
        keys: SigningKeys,
        feature_set: FeatureSet,
        hooks: ModelHooks | None = None,
    ) -> None:
        """Prepare.

        Args:
            store: Of artefacts.
            keys: By which records are signed.
            feature_set: Of the profile.
            hooks: Told of each.
        """
        self._store = store
        self._keys = keys
        self._features = feature_set
        self._hooks = hooks or NoModelHooks()
        self._log = event_log("releases")

    def __call__(self, made: Made) -> dict[str, Any] | None:
        """The signed record of a release whose artefact is stored; None when the store does not take it.

        The learner goes on then: its next release holds all that this one would have.
        """
        record = self._record(made)
        try:
            self._store.put(made.artefact)
            store_release(self._store, record)
            self._store.put_text(f"cards/{made.sha256}.md", card_markdown(record, made))
            self._store.put_text(f"cards/{made.sha256}.html", card_html(record, made))
        except BackupError as error:
            self._hooks.released("failed")
            self._log.error("release_failed", extra=fields(model=f"{made.model_id} {made.version}", error=str(error)))
            return None
        self._hooks.released("announced")
        extra = fields(model=f"{made.model_id} {made.version}", sha256=made.sha256, stage=made.stage)
        self._log.info("released", extra=extra)
        return record

    def _record(self, made: Made) -> dict[str, Any]:
        before = made.before
        record: dict[str, Any] = {
            "model_id": made.model_id,
            "version": made.version,
            "stage": made.stage,
            "feature_set_id": self._features.id,
            "feature_set_hash": self._features.hash,
            "metrics": figures(made),
            "artefact_uri": self._store.uri(made.sha256),
            "sha256": made.sha256,
            "created_at": made.created_at_us,
            "origin": made.origin,
            "change": made.change,
            "author": "weir learn",
            "reason": made.reason,
            "frozen": None,
            "artefact_bytes": len(made.artefact),
            "labels": made.labels,
            "previous_version": before[0] if before else None,
            "previous_uri": self._store.uri(before[1]) if before else None,
            "previous_sha256": before[1] if before else None,
        }
        record[SIGNATURE] = self._keys.sign(record)
        return record


def release_name(model_id: str, sha256: str) -> str:
    """Where the record of an artefact stands in the store."""
    return f"releases/{model_id}/{sha256}.json"


def store_release(store: ArtefactStore, record: dict[str, Any]) -> None:
    """Keep the record beside its artefact, so that it can be promoted when models.v1 has forgotten it.

    Raises:
        BackupError: The store refuses.
    """
    store.put_text(release_name(record["model_id"], record["sha256"]), encode_json(CONTRACT, record).decode())
