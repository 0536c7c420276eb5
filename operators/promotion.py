"""Who is champion, canary, challenger, and who moves: on evidence, rarely, and never while a person says no.

    challenger ──proven better than the champion──► canary ──proven better again, on fresh labels──► champion
    canary ──proven worse, or neither within `patience`──► challenger, barred for `patience`
    the champion before ──proven better than its successor within `probation`──► champion

Evidence is paired: champion and rival scored the same payments at decision time, and each label gives both a loss
(operators/evidence.py). Every move starts all evidence anew, so each stage has labels of its own. Several challengers
share the level evenly. At most one move is made in `period`, of whatever kind, and none while frozen.

What is guaranteed: an equal or worse model passes one trial with a chance of at most `level`, however often one looks;
to become champion it must pass two, as challenger and as canary. A trial lasts `patience` at most, then begins anew: a
model that was bad last year may show that it no longer is. Sending back has a level of its own, and sees what has
*turned* bad as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from operators.alerts import Alert, figure, make_alert
from operators.evidence import Evidence
from operators.loop_config import Loss, PromotionConfig
from schemas.errors import StateLayoutError

_FORMAT: Final = b"WPR\x01"
_LEAST_PROBABILITY: Final = 1e-4
"""No score costs more than -ln of this, 9.2 nats: a model that is sure and wrong once is not ruined by one label."""

Move = Literal["canary", "promotion", "rollback", "withdrawal"]
_KINDS: Final[dict[Move, str]] = {
    "canary": "model_canary_started",
    "promotion": "model_promoted",
    "rollback": "model_rolled_back",
    "withdrawal": "model_canary_withdrawn",
}


@dataclass(frozen=True, slots=True)
class Change:
    """A move of one model, already in force.

    Attributes:
        move: What kind.
        model: Id of the model that moved; of a rollback after a promotion, the one that took its place back.
        role: What it is now: champion, canary or challenger.
        champion: Id of the champion from now on.
        canary: Id of the canary from now on, None when there is none.
        event_time_us: End of the block whose labels brought it about.
        measured: Bound of the chance that this is wrong: level over evidence; None when patience ran out.
        threshold: The level it had to fall below.
        evidence: Figures.
    """

    move: Move
    model: str
    role: str
    champion: str
    canary: str | None
    event_time_us: int
    measured: float | None
    threshold: float | None
    evidence: Mapping[str, str]

    def alert(self) -> Alert:
        """The event that records it."""
        told = {**self.evidence, "champion": self.champion, "canary": self.canary or ""}
        kind = _KINDS[self.move]
        return make_alert(kind, self.event_time_us, self.model, self.measured, self.threshold, told)


class _Trial(msgspec.Struct, array_like=True):
    """One rival against the champion."""

    evidence: list[float]
    began_us: int | None = None
    labels: int = 0
    frauds: int = 0
    weight: float = 0.0
    gain: float = 0.0  # sum of weight times (champion's loss less the rival's)
    block_weight: float = 0.0
    block_gain: float = 0.0


class _State(msgspec.Struct, array_like=True):
    champion: str
    canary: str | None
    previous: str | None
    models: list[str]
    changed_at_us: int | None
    canary_since_us: int | None
    promoted_at_us: int | None
    block: int | None
    barred: dict[str, int]
    trials: dict[str, _Trial]


_decode = msgspec.msgpack.Decoder(_State).decode
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Promotion:
    """Roles of the models, and the trials between them; see the module. Deterministic: equal labels, equal bytes."""

    def __init__(
        self, config: PromotionConfig, champion: str, rivals: Sequence[str], canary: str | None = None
    ) -> None:
        """Begin.

        Args:
            config: The criteria.
            champion: Id of the model that decides.
            rivals: Ids of the others, in the order in which ties go.
            canary: The rival that is canary from the start.

        Raises:
            ValueError: The canary is no rival, or an id stands twice.
        """
        models = [champion, *rivals]
        if len(set(models)) != len(models) or (canary is not None and canary not in rivals):
            message = f"champion {champion!r}, rivals {list(rivals)!r}, canary {canary!r}: expected different ids"
            raise ValueError(message)
        self._config = config
        self._state = _State(champion, canary, None, models, None, None, None, None, {}, {})
        self.frozen = config.frozen
        self._restart()

    @property
    def champion(self) -> str:
        """Id of the model that decides."""
        return self._state.champion

    @property
    def canary(self) -> str | None:
        """Id of the model that decides the canary's accounts."""
        return self._state.canary

    def role(self, model: str) -> str:
        """champion, canary or challenger."""
        state = self._state
        return "champion" if model == state.champion else "canary" if model == state.canary else "challenger"

    def observe(
        self, event_time_us: int, *, fraud: bool, weight: float, scores: Mapping[str, float | None]
    ) -> list[Change]:
        """Count a labelled outcome; what it makes the end of may bring a change about.

        Args:
            event_time_us: Of the label; one behind the block at hand counts in it.
            fraud: The label.
            weight: How many payments it stands for: inverse sampling share times bounded inverse propensity.
            scores: What each model said when the payment was decided, by id; None: it could not.
        """
        changes = self.advance(event_time_us)
        state = self._state
        told = scores.get(state.champion)
        if told is None:
            return changes
        kind = self._config.loss
        champions = loss(told, fraud, kind)
        for model, trial in state.trials.items():
            score = scores.get(model)
            if score is None:
                continue
            gain = weight * (champions - loss(score, fraud, kind))
            trial.labels += 1
            trial.frauds += fraud
            trial.weight += weight
            trial.gain += gain
            trial.block_weight += weight
            trial.block_gain += gain
        return changes

    def advance(self, now_us: int) -> list[Change]:
        """Let event time go on: a block that is over is bet on, and what is proven is done."""
        state = self._state
        block = now_us // self._config.block_us
        if state.block is None or block <= state.block:
            state.block = block if state.block is None else state.block
            return []
        ended_us = (state.block + 1) * self._config.block_us
        state.block = block
        for trial in state.trials.values():
            if trial.block_weight > 0.0:
                evidence = Evidence.unpack(trial.evidence)
                evidence.add(trial.block_gain / trial.block_weight)
                trial.evidence = evidence.pack()
                trial.block_weight = trial.block_gain = 0.0
        return self._judge(ended_us)

    def place(self, model: str, role: str, now_us: int) -> None:
        """What a person orders: it holds at once, frozen or not, and the next move on evidence waits for `period`.

        Args:
            model: Id of the model.
            role: champion, canary or challenger.
            now_us: Event time.

        Raises:
            ValueError: No such model or role, or the champion would leave its place to nobody.
        """
        state = self._state
        if model not in state.models or role not in {"champion", "canary", "challenger"}:
            known = ", ".join(state.models)
            message = f"place {model!r} as {role!r}: expected one of {known} as champion, canary or challenger"
            raise ValueError(message)
        if role != "champion" and model == state.champion:
            message = f"{model!r} is champion; make another one champion instead"
            raise ValueError(message)
        if role == "champion" and model != state.champion:
            self._crown(model, now_us)
        elif role == "canary":
            state.canary, state.canary_since_us = model, now_us
        elif state.canary == model:
            state.canary = state.canary_since_us = None
        state.barred.pop(model, None)
        state.changed_at_us = now_us
        self._restart()

    def to_bytes(self) -> bytes:
        """All that it is; equal histories give equal bytes."""
        return _FORMAT + _encode(self._state)

    @classmethod
    def from_bytes(cls, config: PromotionConfig, packed: bytes, models: Sequence[str]) -> Promotion:
        """What `to_bytes` was called on.

        Args:
            config: The criteria, which may be others than then.
            packed: The bytes.
            models: Ids of the models there are now, the declared champion first. One that is new begins as challenger;
                a canary that is gone leaves its place empty; when the champion is gone, roles start anew.

        Raises:
            StateLayoutError: The bytes are none of these.
        """
        try:
            if packed[: len(_FORMAT)] != _FORMAT:
                raise ValueError(packed[: len(_FORMAT)])
            state = _decode(packed[len(_FORMAT) :])
        except (ValueError, msgspec.MsgspecError) as error:
            message = f"roles of the models: no record of format {_FORMAT!r} ({error}); restore a backup"
            raise StateLayoutError(message) from error
        made = cls(config, models[0], models[1:])
        if state.champion in models:
            if state.canary not in models:
                state.canary = state.canary_since_us = None
            state.models = list(models)
            state.previous = state.previous if state.previous in models else None
            state.trials = {name: trial for name, trial in state.trials.items() if name in models}
            for name in models:
                if name != state.champion:
                    state.trials.setdefault(name, _Trial(Evidence().pack()))
            made._state = state
        return made

    def standing(self) -> dict[str, dict[str, float]]:
        """Of each rival: labels, frauds, mean gain (the champion's loss less its own), and both wealths."""
        told = {}
        for name, trial in self._state.trials.items():
            evidence = Evidence.unpack(trial.evidence)
            told[name] = {
                "labels": float(trial.labels),
                "frauds": float(trial.frauds),
                "mean_gain": trial.gain / trial.weight if trial.weight else 0.0,
                "better": evidence.better,
                "worse": evidence.worse,
            }
        return told

    def _judge(self, now_us: int) -> list[Change]:
        state, config = self._state, self._config
        if state.canary is not None and state.canary_since_us is None:
            state.canary_since_us = now_us
        waits = state.changed_at_us is not None and now_us < state.changed_at_us + config.period_us
        if state.promoted_at_us is not None and now_us >= state.promoted_at_us + config.probation_us:
            state.previous = state.promoted_at_us = None
        change = None if self.frozen or waits else self._probation(now_us) or self._move(now_us)
        if change is None:
            self._renew(now_us)
            return []
        return [change]

    def _probation(self, now_us: int) -> Change | None:
        """Whether the champion before takes its place back."""
        state, config = self._state, self._config
        if state.previous is None:
            return None
        trial = state.trials[state.previous]
        blocks = max(1, config.probation_us // config.block_us)
        shown = Evidence.unpack(trial.evidence).shows_better(config.rollback_level, blocks)
        if not self._ready(trial) or shown < 1.0:
            return None
        fallen, model = state.champion, state.previous
        change = self._change("rollback", model, "champion", now_us, (shown, config.rollback_level), {"from": fallen})
        state.barred[fallen] = now_us + config.patience_us
        return change

    def _move(self, now_us: int) -> Change | None:
        """Whether the canary moves, or a challenger becomes canary."""
        state, config = self._state, self._config
        if state.canary is not None:
            return self._judge_canary(state.canary, now_us)
        level = config.level / len(state.trials)
        for name, trial in state.trials.items():
            if name == state.previous or now_us < state.barred.get(name, 0) or not self._ready(trial):
                continue
            shown = Evidence.unpack(trial.evidence).better * level
            if shown >= 1.0:
                return self._change("canary", name, "canary", now_us, (shown, level), {})
        return None

    def _judge_canary(self, canary: str, now_us: int) -> Change | None:
        state, config = self._state, self._config
        trial = state.trials[canary]
        evidence = Evidence.unpack(trial.evidence)
        worse = evidence.shows_worse(config.rollback_level, max(1, config.patience_us // config.block_us))
        better = evidence.better * config.level
        if self._ready(trial) and worse >= 1.0:
            change = self._change("rollback", canary, "challenger", now_us, (worse, config.rollback_level), {})
        elif self._ready(trial) and better >= 1.0:
            return self._change("promotion", canary, "champion", now_us, (better, config.level), {})
        elif now_us >= (state.canary_since_us or now_us) + config.patience_us:
            change = self._change("withdrawal", canary, "challenger", now_us, None, {})
        else:
            return None
        state.barred[canary] = now_us + config.patience_us
        return change

    def _renew(self, now_us: int) -> None:
        """Begin a challenger's trial anew when it has lasted `patience`."""
        state = self._state
        for name, trial in state.trials.items():
            if trial.began_us is None:
                trial.began_us = now_us
            elif name not in (state.canary, state.previous) and now_us >= trial.began_us + self._config.patience_us:
                state.trials[name] = _Trial(Evidence().pack(), now_us)

    def _ready(self, trial: _Trial) -> bool:
        return trial.frauds >= self._config.min_frauds

    def _change(
        self, move: Move, model: str, role: str, now_us: int, shown: tuple[float, float] | None, more: Mapping[str, str]
    ) -> Change:
        state = self._state
        trial = state.trials[model]
        evidence = Evidence.unpack(trial.evidence)
        told = {
            "against": state.champion,
            "labels": str(trial.labels),
            "frauds": str(trial.frauds),
            "blocks": str(evidence.blocks),
            "loss": self._config.loss,
            "mean_gain": figure(trial.gain / trial.weight if trial.weight else 0.0),
            "wealth_better": figure(evidence.better),
            "wealth_worse": figure(evidence.worse),
            **more,
        }
        if role == "champion":
            self._crown(model, now_us)
            if move == "rollback":
                state.previous = state.promoted_at_us = None
        elif role == "canary":
            state.canary, state.canary_since_us = model, now_us
        else:
            state.canary = state.canary_since_us = None
        state.changed_at_us = now_us
        self._restart()
        # Evidence and what it had to reach, both as chances of being wrong: 1 / wealth, and the level.
        measured, threshold = (None, None) if shown is None else (shown[1] / shown[0], shown[1])
        return Change(move, model, role, state.champion, state.canary, now_us, measured, threshold, told)

    def _crown(self, model: str, now_us: int) -> None:
        state = self._state
        state.previous, state.champion, state.promoted_at_us = state.champion, model, now_us
        if state.canary == model:
            state.canary = state.canary_since_us = None

    def _restart(self) -> None:
        """All trials anew: they were against another champion, or their labels have brought about a move."""
        state = self._state
        state.trials = {name: _Trial(Evidence().pack()) for name in state.models if name != state.champion}


def loss(score: float, fraud: bool, kind: Loss) -> float:
    """What a score cost, given the label: both are proper, so that only the truth is cheapest.

    Args:
        score: 0..1.
        fraud: The label.
        kind: "log": -ln of the probability given to what happened, at most 9.2; "brier": squared error.
    """
    given = score if fraud else 1.0 - score
    if kind == "brier":
        return (1.0 - given) ** 2
    return -math.log(max(given, _LEAST_PROBABILITY))
