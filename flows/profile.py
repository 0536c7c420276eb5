"""A profile folder (features.toml, policy.toml, learning.toml) made into the steps of the flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from operators.adopted import Adopted
from operators.decide import Decide, DecideConfig, TellFeatures
from operators.enrich import Enricher
from operators.entity import Entity
from operators.features import EntitySpec, FeatureSet, load_feature_set
from operators.geo import Geo
from operators.learning import LearningConfig, load_learning
from operators.model import Model, restore_model
from operators.money import Rates
from operators.policy import Policy, empty_policy, load_policy
from operators.seen import Seen, SeenConfig
from operators.steering import ModelSource, Steering
from schemas.codec import feature_map_json
from schemas.errors import ProfileError


@dataclass(frozen=True, slots=True)
class Profile:
    """What a profile folder declares, parsed and checked.

    Attributes:
        name: Name of the folder.
        features: The feature set.
        policy: Rules and thresholds; without rules when there is no policy.toml.
        learning: Labels and model; without a model when there is no learning.toml.
        rates: Exchange rates.
        geo: Geo data.
    """

    name: str
    features: FeatureSet
    policy: Policy
    learning: LearningConfig
    rates: Rates
    geo: Geo

    def restores(self) -> dict[str, Callable[[bytes | None], Model]]:
        """How to make each declared model, by id, the declared champion first; empty when there is none.

        Raises:
            ProfileError: The model to start from is of another profile.
            StateLayoutError: It is no model, cut off or altered.
        """
        learning = self.learning
        if learning.model is None:
            return {}
        made = {learning.model.id: restore_model(self.features, learning)}
        for one in learning.challengers:
            made[one.id] = restore_model(self.features, replace(learning, model=one, start=None))
        return made

    def enricher(self) -> Enricher:
        """What fills the bare facts of payments."""
        return Enricher(self.features, self.rates, self.geo)

    def seen(self, *, outcomes: bool) -> Seen:
        """The first step; without outcomes nothing ever matures, or an outage of theirs would make fraud genuine."""
        return Seen(self.seen_config(outcomes=outcomes))

    def seen_config(self, *, outcomes: bool) -> SeenConfig:
        """How long payments are remembered: the ledger and what waits for labels follow it."""
        learning = self.learning
        return SeenConfig(
            seen_ttl_us=self.features.seen_ttl_us,
            maturity_us=learning.maturity_us if outcomes else None,
            correction_horizon_us=learning.correction_horizon_us if outcomes else 0,
            genuine_share=learning.genuine_sample,
        )

    def entities(self, predecessor: str | None = None) -> list[tuple[EntitySpec, Entity]]:
        """One step an entity, in the feature set's order; `predecessor` is the set that ran before on this state."""
        return [(spec, Entity(self.features, spec, predecessor)) for spec in self.features.entities]

    def decide(
        self,
        *,
        outcomes: bool,
        in_order: bool,
        adopted: Adopted | None = None,
        now_us: Callable[[], int] | None = None,
        deadlines: bool = True,
        maps_features: bool = True,
        models: ModelSource | None = None,
        parts: int = 1,
    ) -> Decide:
        """The last step; without order of arrival a label may overtake its payment.

        Args:
            outcomes: Whether there are any; without, nothing waits for a label.
            in_order: Whether events keep their order of arrival.
            adopted: Decisions that an earlier run published and did not commit.
            now_us: A live flow's clock; None in a replay.
            deadlines: Whether the policy's deadline counts; without, it is as if the policy had none.
            maps_features: Whether records tell features by name, in JSON; else as the contract has them.
            models: Gives the model that decides; None: the step's own.
            parts: Shards that decide apart.
        """
        learning = self.learning
        restore: Callable[[bytes | None], Model] | None = None
        if learning.model is not None:
            restore = restore_model(self.features, learning)
        # Two ticks longer than the first step knows the payment: no label can come for one that is forgotten here.
        keep_us = self.seen_config(outcomes=True).keep_us + 2 * learning.tick_us if outcomes else None
        config = DecideConfig(
            keep_us,
            self.geo.version,
            self.rates.version,
            may_overtake=not in_order,
            now_us=now_us,
            began_us=now_us() if now_us else 0,
            deadlines=deadlines,
        )
        tell: TellFeatures = feature_map_json([feature.name for feature in self.features.features])
        if not maps_features:
            tell = _as_contract(self.features.id)
        challengers = self.restores()
        if learning.model is not None:
            del challengers[learning.model.id]
        steering = Steering(restore, learning.loop, challengers, self.features, parts, models)
        return Decide(self.features, self.policy, restore, config, tell, adopted, steering)


def _as_contract(feature_set: str) -> TellFeatures:
    return lambda values: {"feature_set": feature_set, "values": list(values)}


def load_profile(directory: Path) -> Profile:
    """Parse a profile folder; features.toml alone is enough.

    Raises:
        ProfileError: naming file, key, value and what was expected.
    """
    if not (directory / "features.toml").is_file():
        message = f"{directory}: expected a profile folder with a features.toml, found none; give another --profile"
        raise ProfileError(message)
    features = load_feature_set(directory / "features.toml")
    policy_path = directory / "policy.toml"
    return Profile(
        name=directory.resolve().name,
        features=features,
        policy=load_policy(policy_path, features) if policy_path.is_file() else empty_policy(features),
        learning=load_learning(directory / "learning.toml", features),
        rates=Rates.load(features.rates_path, features.base_currency),
        geo=Geo.load(features.geo),
    )
