"""What deciding knows of a model, and what a stack knows of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from operators.inflight import Value
from operators.model_terms import Floats

Contributions = tuple[tuple[str, float], ...]
"""Terms of the model with what each adds to the logit of a payment, beyond what it adds on average."""

MOST_WEIGHT: Final = 1e6
"""A label's weight beyond this is a mistake upstream; smaller would refuse samples of one in a million."""

__all__ = ["MOST_WEIGHT", "Contributions", "Model", "Part", "check_weight", "told"]


class Model(Protocol):
    """What scores and learns.

    Attributes:
        id: Name of the model.
        version: Version given by its author; `labels` tells two states of one version apart.
        labels: Labels learned so far.
        feature_set_hash: Of the feature set whose values it takes.
    """

    id: str
    version: str
    labels: int
    feature_set_hash: str

    def score_one(self, values: Sequence[Value]) -> float | None:
        """Probability of fraud, 0..1; None while untrained. Values in the feature set's order."""
        ...

    def score_many(self, values_list: Sequence[Sequence[Value]]) -> list[float | None]:
        """`score_one` of each, to the last bit, at less cost."""
        ...

    def contributions(self, values: Sequence[Value], top: int) -> Contributions:
        """The `top` largest contributions in logits, largest size first; empty while untrained."""
        ...

    def contributions_many(self, values_list: Sequence[Sequence[Value]], top: int) -> list[Contributions]:
        """`contributions` of each, to the last bit, at less cost."""
        ...

    def explain_many(
        self, values_list: Sequence[Sequence[Value]], top: int
    ) -> tuple[list[float | None], list[Contributions]]:
        """`score_many` and `contributions_many` in one."""
        ...

    def learn_one(self, values: Sequence[Value], fraud: bool, weight: float) -> None:
        """Learn one label; `weight` is how many payments it stands for, more than 0."""
        ...

    def to_bytes(self) -> bytes:
        """All that it is; what `restore_model` makes of it goes on exactly as this one would."""
        ...

    def artefact_hash(self) -> str:
        """sha256 (hex) of `to_bytes()`; computed when asked after learning: not for every payment."""
        ...


class Part(Model, Protocol):
    """A model that a stack can be made of."""

    @property
    def trained(self) -> bool:
        """Whether it has met enough labels to score, and fraud among them."""
        ...

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of what contributes."""
        ...

    def logits(self, values_list: Sequence[Sequence[Value]]) -> Floats:
        """Log odds of fraud, trained or not; (payments,)."""
        ...

    def added(self, values_list: Sequence[Sequence[Value]]) -> Floats:
        """What each term adds to the logit beyond the baseline; (payments, terms)."""
        ...


def check_weight(weight: float) -> None:
    """Refuse a label's weight that is none.

    Raises:
        ValueError: the weight is not above 0, or beyond a million.
    """
    if not 0.0 < weight <= MOST_WEIGHT:
        message = f"weight of a label is {weight!r}; expected more than 0, at most {MOST_WEIGHT:.0f}"
        raise ValueError(message)


def told(names: Sequence[str], added: Floats, top: int) -> list[Contributions]:
    """The `top` largest of each row of `added`, by size; equal ones in their order.

    Args:
        names: Of the columns.
        added: (payments, terms).
        top: At least 1.
    """
    places: Any = np.argsort(-np.abs(added), axis=1, kind="stable")[:, :top]
    sizes = np.take_along_axis(added, places, axis=1)
    return [
        tuple((names[at], value) for at, value in zip(row, values, strict=True))
        for row, values in zip(places.tolist(), sizes.tolist(), strict=True)
    ]
