"""The models at hand: one decides, a canary decides some accounts in its stead, all others score in the shadow.

A score that decides is a float; a score in the shadow is a `ShadowScore`, which nothing that chooses an action accepts:
no threshold compares with it, `Policy.decide` refuses it, and what it tells for the record is no number to the type
checker. So a challenger cannot change an action, by construction, like a shadow rule (operators/actions.py).

All models score every payment and learn from every label, so that each has met the same and their losses are pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import xxhash

from operators.inflight import Value
from operators.loop_config import CanaryConfig
from operators.model import Contributions, Model
from operators.promotion import Promotion

Role = Literal["champion", "canary"]
_HASHES: Final = 2**64


class ShadowScore:
    """What a model that does not decide said of a payment; for the record only.

    Attributes:
        model_id: The model.
        model_version: Its version, with the labels learned.
    """

    __slots__ = ("_said", "model_id", "model_version")

    def __init__(self, model_id: str, model_version: str, said: float | None) -> None:
        self.model_id = model_id
        self.model_version = model_version
        self._said = said

    def record(self) -> dict[str, object]:
        """As the contract `decision` has it."""
        return {"model_id": self.model_id, "model_version": self.model_version, "score": self._said}


class Announced(NamedTuple):
    """The models that were announced, whole: a batch has one of these.

    Attributes:
        models: The champion first.
        hashes: sha256 of each one's artefact, by id.
        canary: Id of the canary, None when there is none.
    """

    models: tuple[Model, ...]
    hashes: Mapping[str, str]
    canary: str | None = None


class Scored(NamedTuple):
    """What is known of a payment's score; a tuple, since one is made for every payment.

    Attributes:
        score: Of the model that decides it, 0..1; None: it could not score.
        why: Contributions to it.
        role: In which part of the traffic it is decided.
        model: Id of the model that decides it.
        shadows: What the others say.
    """

    score: float | None
    why: Contributions
    role: Role
    model: str
    shadows: tuple[ShadowScore, ...] = ()


class Roster:
    """The models, who of them decides, and for whom.

    Attributes:
        models: By id, as declared.
        promotion: Who moves; None: roles stay as declared.
    """

    def __init__(
        self, models: Sequence[Model], canary: CanaryConfig | None = None, promotion: Promotion | None = None
    ) -> None:
        """Prepare.

        Args:
            models: The declared champion first.
            canary: Which accounts a canary decides; None: there is none.
            promotion: Holds the roles; None: the first decides, and the canary that is declared.

        Raises:
            ValueError: Two models have one id.
        """
        self.models: Mapping[str, Model] = {model.id: model for model in models}
        if len(self.models) != len(models):
            message = f"models {[model.id for model in models]!r}: expected different ids"
            raise ValueError(message)
        self.promotion = promotion
        self._first = models[0].id
        self._canary = canary
        self._below = 0 if canary is None else int(canary.share * _HASHES)

    @property
    def champion(self) -> str:
        """Id of the model that decides."""
        return self._first if self.promotion is None else self.promotion.champion

    @property
    def canary(self) -> str | None:
        """Id of the model that decides the canary's accounts, None when there is none."""
        if self._canary is None:
            return None
        return self._canary.model if self.promotion is None else self.promotion.canary

    def is_canarys(self, account_id: str) -> bool:
        """Whether a canary, when there is one, decides this account: stable, whoever is canary."""
        canary = self._canary
        return canary is not None and xxhash.xxh64_intdigest(f"{canary.salt}\x1f{account_id}".encode()) < self._below

    def score(self, accounts: Sequence[str], values_list: Sequence[Sequence[Value]], top: int) -> list[Scored]:
        """Score payments, each by the model that decides it, and by the others in the shadow.

        Args:
            accounts: Account of each payment.
            values_list: Values of each, in the feature set's order.
            top: Contributions told of the score that decides.
        """
        champion = self.champion
        decider = self.models[champion]
        if len(self.models) == 1:
            scores, told = decider.explain_many(values_list, top)
            return [Scored(score, why, "champion", champion) for score, why in zip(scores, told, strict=True)]
        canary = self.canary
        chosen = [] if canary is None else [at for at, account in enumerate(accounts) if self.is_canarys(account)]
        apart = set(chosen)
        rest = [at for at in range(len(accounts)) if at not in apart]
        deciding: dict[int, tuple[str, Role, float | None, Contributions]] = {}
        for model_id, role, places in ((champion, "champion", rest), (canary, "canary", chosen)):
            if model_id is not None and places:
                scores, told = self.models[model_id].explain_many([values_list[at] for at in places], top)
                for at, score, why in zip(places, scores, told, strict=True):
                    deciding[at] = (model_id, "canary" if role == "canary" else "champion", score, why)
        said = {name: model.score_many(values_list) for name, model in self.models.items()}
        versions = {name: version_of(model) for name, model in self.models.items()}
        made = []
        for at in range(len(accounts)):
            model_id, part, score, why = deciding[at]
            shadows = tuple([ShadowScore(name, versions[name], said[name][at]) for name in said if name != model_id])
            made.append(Scored(score, why, part, model_id, shadows))
        return made

    def learn(self, values: Sequence[Value], *, fraud: bool, weight: float) -> None:
        """Teach all of them one label."""
        for model in self.models.values():
            model.learn_one(values, fraud, weight)


def version_of(model: Model) -> str:
    """Version with the labels learned: two states of a model that learns are two versions."""
    return f"{model.version}+{model.labels}"
