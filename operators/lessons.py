"""Which of the labels that are published models learn from.

Fraud rates want every genuine label: a share of them makes a rate of a terminal with a payment a day a matter of luck.
Models do not: beside fifty frauds a day, more genuine labels add cost and little knowledge. So a share of the genuine
labels is learned, chosen by a hash of the transaction, each weighing as many as it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import xxhash

from schemas.events import Label

SEED: Final = 1
"""Of the hash by which genuine payments are sampled too (operators/seen.py), so that who is learned has been told."""
_HASHES: Final = 2**64


@dataclass(frozen=True, slots=True)
class Lessons:
    """The choice.

    Attributes:
        sample: Share of genuine payments whose label is published, 0 < share <= 1.
        learned: Share of those that are learned, 0 < share <= 1.
    """

    sample: float = 1.0
    learned: float = 1.0

    def weight(self, label: Label) -> float:
        """How much a label weighs in learning beside its own weight; 0: it is not learned."""
        if label.fraud or self.learned >= 1.0:
            return 1.0
        hashed = xxhash.xxh64_intdigest(label.transaction_id.encode(), seed=SEED)
        return 1.0 / self.learned if hashed < int(self.sample * self.learned * _HASHES) else 0.0
