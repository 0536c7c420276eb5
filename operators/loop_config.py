"""The tables of learning.toml that steer the learning loop: who decides, who may, what is explored, what is watched.

All are optional; docs/adr/0021-promotion.md, 0022-exploration.md and 0023-drift.md say why.

declined_outcomes = "learned"   # "withheld": outcomes of payments this run declines teach nothing, as in production

[canary]                     # who decides a small share of the accounts
model = "cards-linear-2"     # optional: a challenger that decides it from the start; default: the first promoted
share = 0.05                 # of the accounts, chosen by a hash of account and salt
salt = "2026-11"

[promotion]                  # who is promoted and who goes back, on which evidence
loss = "log"                 # or "brier": what a score cost once the label is known
block = "1d"                 # labels of one block count as one observation
level = 0.05                 # chance that an equal or worse model ever gets through one stage, at most
rollback_level = 0.05        # the same for a canary, or a new champion, that is sent back
min_frauds = 50              # labels of fraud that both have scored, before any change
period = "1d"                # at most one change in it
patience = "60d"             # a canary neither proven better nor worse by then goes back
probation = "30d"            # for so long the champion before may take its place back
frozen = false               # true: evidence is gathered, nobody moves

[exploration]                # declined payments get no label: let a few through to learn
share = 0.02                 # of the payments that would be declined or reviewed
salt = "2026-11"
declined_to = "approve"      # what is done instead of declining: approve, challenge or review
reviewed_to = "approve"      # instead of reviewing: approve or challenge; default: reviews stay reviews
largest_amount = 100         # no payment above is explored; base currency, major units
daily_budget = 2000          # sum of the amounts explored in a day (UTC), at most
largest_weight = 50          # bound of a label's inverse propensity

[drift]                      # what is watched, and from where on it is told
features = ["amount"]        # default: all but ages, which grow by themselves
sample = 0.2                 # of the payments, by hash
warm_up = "30d"              # from the first payment: windows that are still filling are no drift
reference = "14d"            # what later days are held against
psi = 0.25                   # population stability index of a day from which on it is drift
ks = 0.15                    # Kolmogorov-Smirnov distance of a day
missing = 0.10               # rise or fall of the share in which a feature is absent
delay_ks = 0.35              # distance of the delays of a week's fraud labels
adwin_delta = 0.0001         # chance of a false cut in the champion's loss
days = 2                     # in a row, before it is told
min_payments = 200           # sampled payments that a day needs to be judged
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from operators.actions import ACTIONS, Action
from operators.features import FeatureSet
from operators.lessons import Lessons
from operators.section import Section

Loss = Literal["log", "brier"]
LOSSES: Final[tuple[Loss, ...]] = ("log", "brier")
LOOP_KEYS: Final = ("declined_outcomes", "canary", "promotion", "exploration", "drift")
"""What learning.toml may hold of the loop."""

_LONGEST_SALT: Final = 64
_AGES: Final = (
    "seconds_since_first_seen", "seconds_since_first_event", "seconds_since_opened",
    "seconds_since_credentials_changed", "seconds_since_address_changed", "seconds_since_fingerprint_changed",
    "accounts",
)  # fmt: skip
"""Features that go on rising while nothing changes: not watched unless [drift] names them."""


@dataclass(frozen=True, slots=True)
class CanaryConfig:
    """Which accounts a canary decides.

    Attributes:
        share: Of the accounts, 0 < share <= 0.5.
        salt: Another one chooses other accounts.
        model: Id of the model that is canary from the start; None: the first one that is promoted to it.
    """

    share: float
    salt: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class PromotionConfig:
    """The criteria; see the module. Times in µs of event time."""

    loss: Loss = "log"
    block_us: int = 86_400_000_000
    level: float = 0.05
    rollback_level: float = 0.05
    min_frauds: int = 50
    period_us: int = 86_400_000_000
    patience_us: int = 60 * 86_400_000_000
    probation_us: int = 30 * 86_400_000_000
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class ExplorationConfig:
    """What may be explored.

    Attributes:
        share: Of the payments that would be declined or reviewed, 0 < share <= 0.5.
        salt: Another one chooses other payments.
        instead: Action by the one it stands in for.
        largest_micros: No payment above is explored; millionths of the base currency's major unit.
        daily_budget_micros: Sum of what is explored in a day, at most.
        largest_weight: Bound of a label's inverse propensity.
    """

    share: float
    salt: str
    instead: Mapping[Action, Action]
    largest_micros: int
    daily_budget_micros: int
    largest_weight: float = 50.0


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """What is watched and from where on it is told; see the module. Times in µs of event time.

    Attributes:
        features: Names of the features watched.
    """

    features: tuple[str, ...]
    sample: float = 0.2
    warm_up_us: int = 30 * 86_400_000_000
    reference_us: int = 14 * 86_400_000_000
    psi: float = 0.25
    ks: float = 0.15
    missing: float = 0.10
    delay_ks: float = 0.35
    adwin_delta: float = 0.0001
    days: int = 2
    min_payments: int = 200


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How the loop is steered; what is None is not declared.

    Attributes:
        withhold_declined: Whether outcomes of payments that were declined teach nothing.
        lessons: Which genuine labels are learned.
    """

    canary: CanaryConfig | None = None
    promotion: PromotionConfig | None = None
    exploration: ExplorationConfig | None = None
    drift: DriftConfig | None = None
    withhold_declined: bool = False
    lessons: Lessons = field(default_factory=Lessons)


def parse_loop(top: Section, feature_set: FeatureSet, champion: str | None, rivals: tuple[str, ...]) -> LoopConfig:
    """Take the loop's tables out of learning.toml.

    Args:
        top: The file's top level.
        feature_set: What [drift] may name.
        champion: Id of the model that decides; None: there is none.
        rivals: Ids of the models beside it.

    Raises:
        ProfileError: naming file, key, value and what was expected.
    """
    given = top.keys()
    outcomes = top.text("declined_outcomes", "learned", '"learned" or "withheld"')
    if outcomes not in ("learned", "withheld"):
        top.refuse("declined_outcomes", outcomes, '"learned" or "withheld"')
    if champion in rivals or len(set(rivals)) != len(rivals):
        top.refuse("challengers", [champion, *rivals], "models with ids of their own")
    canary = _canary(top.table("canary"), rivals) if "canary" in given else None
    promotion = _promotion(top.table("promotion")) if "promotion" in given else None
    if promotion is not None and canary is None:
        top.refuse("canary", None, "a table [canary] beside [promotion]: nobody is promoted without having been canary")
    if promotion is not None and not rivals:
        top.refuse("promotion", "given", "a challenger: there is no model to promote")
    exploration = _exploration(top.table("exploration")) if "exploration" in given else None
    drift = _drift(top.table("drift"), feature_set) if "drift" in given else None
    return LoopConfig(canary, promotion, exploration, drift, outcomes == "withheld" or exploration is not None)


def _canary(section: Section, rivals: tuple[str, ...]) -> CanaryConfig:
    model = section.take("model")
    if model is not None and model not in rivals:
        expected = f"the id of a challenger, one of {', '.join(rivals)}" if rivals else "challengers to choose one from"
        section.refuse("model", model, expected)
    made = CanaryConfig(_share(section), _salt(section), model)
    section.close(("model", "share", "salt"))
    return made


def _promotion(section: Section) -> PromotionConfig:
    usual = PromotionConfig()
    loss = section.text("loss", usual.loss, " or ".join(LOSSES))
    if loss not in LOSSES:
        section.refuse("loss", loss, " or ".join(LOSSES))
    made = PromotionConfig(
        loss=loss,
        block_us=section.us("block", "1d"),
        level=_number(section, "level", usual.level, 1e-6, 0.5),
        rollback_level=_number(section, "rollback_level", usual.rollback_level, 1e-6, 0.5),
        min_frauds=_whole(section, "min_frauds", usual.min_frauds, 1, 1_000_000),
        period_us=section.us("period", "1d"),
        patience_us=section.us("patience", "60d"),
        probation_us=section.us("probation", "30d"),
        frozen=section.truth("frozen"),
    )
    section.close(
        ("loss", "block", "level", "rollback_level", "min_frauds", "period", "patience", "probation", "frozen")
    )
    return made


def _exploration(section: Section) -> ExplorationConfig:
    instead: dict[Action, Action] = {}
    for key, stands_for in (("declined_to", Action.DECLINE), ("reviewed_to", Action.REVIEW)):
        if key not in section.keys():  # noqa: SIM118  # a Section, not a dict
            continue
        weaker = [name for name, action in ACTIONS.items() if action < stands_for]
        name = section.text(key, expected=", ".join(weaker))
        if name not in weaker:
            section.refuse(key, name, ", ".join(weaker))
        instead[stands_for] = ACTIONS[name]
    if not instead:
        section.refuse("declined_to", None, "what to do instead of declining: approve, challenge or review")
    made = ExplorationConfig(
        share=_share(section),
        salt=_salt(section),
        instead=instead,
        largest_micros=round(_number(section, "largest_amount", None, 0.01, 1e9) * 1e6),
        daily_budget_micros=round(_number(section, "daily_budget", None, 0.01, 1e12) * 1e6),
        largest_weight=_number(section, "largest_weight", 50.0, 1.0, 10_000.0),
    )
    section.close(("share", "salt", "declined_to", "reviewed_to", "largest_amount", "daily_budget", "largest_weight"))
    return made


def _drift(section: Section, feature_set: FeatureSet) -> DriftConfig:
    known = tuple(feature.name for feature in feature_set.features)
    features = section.texts("features", known, "names of features")
    usual = DriftConfig(tuple(name for name in known if name.rpartition(".")[2] not in _AGES))
    made = DriftConfig(
        features=features or usual.features,
        sample=_number(section, "sample", usual.sample, 1e-4, 1.0),
        warm_up_us=section.us("warm_up", "30d"),
        reference_us=section.us("reference", "14d"),
        psi=_number(section, "psi", usual.psi, 0.01, 10.0),
        ks=_number(section, "ks", usual.ks, 0.01, 1.0),
        missing=_number(section, "missing", usual.missing, 0.001, 1.0),
        delay_ks=_number(section, "delay_ks", usual.delay_ks, 0.01, 1.0),
        adwin_delta=_number(section, "adwin_delta", usual.adwin_delta, 1e-12, 0.5),
        days=_whole(section, "days", usual.days, 1, 30),
        min_payments=_whole(section, "min_payments", usual.min_payments, 10, 10_000_000),
    )
    if made.reference_us < 3 * 86_400_000_000:
        section.refuse(
            "reference", f"{made.reference_us // 3_600_000_000}h", "at least 3d: days differ among themselves"
        )
    section.close(tuple(name.removesuffix("_us") for name in DriftConfig.__dataclass_fields__))
    return made


def _share(section: Section) -> float:
    return _number(section, "share", None, 1e-6, 0.5)


def _salt(section: Section) -> str:
    salt = section.text("salt", expected="a text of your choice; another one chooses others")
    if len(salt) > _LONGEST_SALT:
        section.refuse("salt", salt, f"at most {_LONGEST_SALT} characters")
    return salt


def _number(section: Section, key: str, default: float | None, least: float, most: float) -> float:
    value: Any = section.take(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        section.refuse(key, value, f"a number from {least:g} to {most:g}")
    return float(value)


def _whole(section: Section, key: str, default: int, least: int, most: int) -> int:
    value: Any = section.take(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        section.refuse(key, value, f"a whole number from {least} to {most}")
    return int(value)
