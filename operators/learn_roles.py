"""Who is champion, canary and challenger in the learning flow: as declared, moved by evidence, ordered by people.

The truth is models.v1 in its order, which decide goes by as well (operators/releases.py). The learner moves models on
evidence (operators/promotion.py), announces that, and reads the topic back: what a person ordered there it takes over;
what it announced itself, and what did not take effect since a person was quicker, it takes back. So both agree after
whatever order: a freeze, a promotion, a rollback by hand.

While a person has frozen the champion, nobody moves on evidence; evidence is gathered.

Records of the step `learn`:

    b"R"    roles and evidence: operators/promotion.py
    b"H"    msgpack: what was heard of models.v1: [champion, canary, challengers, own announcements not read back yet]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from operators.loop_config import LoopConfig, PromotionConfig
from operators.promotion import Change, Promotion
from operators.releases import CANARY, CHALLENGER, CHAMPION, HUMAN, Release, ReleaseLog

ROLES: Final = b"R"
HEARD: Final = b"H"
_MOST_UNHEARD: Final = 100
"""Own announcements waited for. More are not under way at once; what the store refused is never announced."""
_FIELDS: Final = ("model_id", "version", "stage", "sha256", "artefact_uri", "origin", "frozen")
"""Of a record, what roles and the next champion's record go by."""


class Sent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An announcement of ours that has not been read back yet."""

    model_id: str
    version: str
    stage: str
    created_at: int
    sha256: str


class _Heard(msgspec.Struct, array_like=True, gc=False):
    champion: dict[str, Any] | None = None
    canary: dict[str, Any] | None = None
    challengers: list[dict[str, Any]] = []
    sent: list[Sent] = []


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(_Heard).decode


class Roles:
    """See the module. Deterministic: equal labels and equal orders give equal bytes."""

    def __init__(
        self,
        models: Sequence[str],
        loop: LoopConfig,
        packed: bytes | None = None,
        heard: bytes | None = None,
        *,
        moves: bool = True,
    ) -> None:
        """Begin, or go on from bytes.

        Args:
            models: Ids of the models declared, the champion first.
            loop: Canary and criteria.
            packed: Roles and evidence.
            heard: What was heard of models.v1.
            moves: Whether models may move on evidence.

        Raises:
            StateLayoutError: The bytes are none of these.
        """
        self._models = tuple(models)
        config = loop.promotion
        self._weighs = config is not None
        self._may_move = moves and config is not None and not config.frozen
        criteria = config or PromotionConfig(frozen=True)
        first, *rivals = models
        if packed is not None:
            self._promotion = Promotion.from_bytes(criteria, packed, models)
        else:
            self._promotion = Promotion(criteria, first, rivals, loop.canary.model if loop.canary else None)
        known = _decode(heard) if heard else _Heard()
        self._sent = list(known.sent)
        self._log = log = ReleaseLog()
        log.champion = _release(known.champion)
        log.canary = _release(known.canary)
        log.challengers = {one["model_id"]: Release(one, -1) for one in known.challengers}
        self._follow_freeze()

    @property
    def champion(self) -> str:
        """Id of the model that decides."""
        return self._promotion.champion

    @property
    def frozen(self) -> bool:
        """Whether a person has frozen the champion."""
        return self._log.frozen

    def role(self, model: str) -> str:
        """champion, canary or challenger."""
        return self._promotion.role(model)

    def observe(
        self, now_us: int, *, fraud: bool, weight: float, scores: Mapping[str, float | None]
    ) -> Sequence[Change]:
        """Weigh the models by a label; see `Promotion.observe`."""
        if not self._weighs:
            return ()
        return self._promotion.observe(now_us, fraud=fraud, weight=weight, scores=scores)

    def advance(self, now_us: int) -> Sequence[Change]:
        """Let time go on where no labels come."""
        return self._promotion.advance(now_us) if self._weighs else ()

    def announced(self, sent: Sent) -> tuple[str, str] | None:
        """A release of ours is on its way; of a champion, (version, sha256) of the champion before it."""
        before = None
        if sent.stage == CHAMPION:
            own = [] if self.frozen else [one for one in self._sent if one.stage == CHAMPION]
            champion = self._log.champion
            if own:
                before = (own[-1].version, own[-1].sha256)
            elif champion is not None:
                before = (str(champion.record["version"]), champion.sha256)
        self._sent = [*self._sent, sent][-_MOST_UNHEARD:]
        return before

    def hear(self, release: Release, now_us: int) -> bool:
        """Take over a record of models.v1, in its order; whether the champion is another model now.

        Args:
            release: The record, its signature checked.
            now_us: When it was appended.
        """
        champion = self.champion
        self._log.apply(Release({name: release.record.get(name) for name in _FIELDS}, release.offset))
        if release.record.get("origin") == HUMAN:
            self._reconcile(now_us)
        else:
            told = (release.model_id, release.stage, release.record.get("created_at"))
            for at, one in enumerate(self._sent):
                if (one.model_id, one.stage, one.created_at) == told:
                    del self._sent[: at + 1]  # what was sent before it and has not come was not announced
                    break
            if not self._sent:  # all of ours has been read back, or it is of an earlier life of the learner
                self._reconcile(now_us)
        self._follow_freeze()
        return self.champion != champion

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Roles and evidence, and what was heard."""
        log = self._log
        heard = _Heard(
            None if log.champion is None else dict(log.champion.record),
            None if log.canary is None else dict(log.canary.record),
            [dict(one.record) for one in log.challengers.values()],
            self._sent,
        )
        return self._promotion.to_bytes(), _encode(heard)

    def _follow_freeze(self) -> None:
        self._promotion.frozen = not self._may_move or self._log.frozen

    def _reconcile(self, now_us: int) -> None:
        """Let roles be those of the topic, as far as it tells."""
        log, promotion = self._log, self._promotion
        champion = None if log.champion is None else log.champion.model_id
        if champion in self._models and champion != promotion.champion:
            promotion.place(champion, CHAMPION, now_us)
        canary = None if log.canary is None else log.canary.model_id
        own = promotion.canary
        if own is not None and own != canary and own in log.challengers:
            promotion.place(own, CHALLENGER, now_us)
        if canary in self._models and canary not in (promotion.canary, promotion.champion):
            promotion.place(canary, CANARY, now_us)


def _release(record: dict[str, Any] | None) -> Release | None:
    return None if record is None else Release(record, -1)
