"""Evidence that one model is better than another, which may be looked at after every block without spending anything.

Each block of labels gives one number d, the champion's mean loss less the rival's on the same labels. A gambler bets
on d > 0: whoever can multiply a stake by 1/alpha in a game that is fair or worse has seen something whose chance is at
most alpha, whenever he stops (Ville's inequality). So, unlike a p-value, it holds under continuous monitoring.

    wealth = mean over bets b of the product over blocks of (1 + b * x),    x = d / scale, cut off at -1 and 1

While E[x | past] <= 0 each product is a supermartingale, and so is their mean. The scale is what earlier blocks have
shown (their root mean square times `_SPAN`): known before the block, so that the bet stays fair; the first `_SCALED`
blocks set it and are not bet on. A block and not a label is the unit, since frauds come in episodes: the labels of one
crime are one observation, not fifty. Two equal models give d = 0, and the wealth stays where it is.

A rival that was good for weeks and then turns bad has a wealth to lose first. Whoever watches for that starts a new
gambler with a stake of 1 at every block (Shiryaev and Roberts): their wealth together exceeds n / alpha within n blocks
with a chance of at most alpha, since its mean after n fair blocks is n.

Source: Waudby-Smith, Ramdas 2023, Estimating means of bounded random variables by betting, JRSS B 86(1):1-27; Shafer
2021, Testing by betting, JRSS A 184(2):407-431; Shin, Ramdas, Rinaldo 2024, E-detectors, New England Journal of
Statistics in Data Science 2(2):229-260.
"""

from __future__ import annotations

import math
from typing import Final

BETS: Final = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the stake put on a block, side by side. Only small ones: slow on clear cases. Only large ones: a few bad
blocks ruin a case that is slight and real. One near 1 would be ruined by a single block."""
_SPAN: Final = 1.5
"""x is 1 at this many root mean squares. Smaller: only signs count. Larger: x is small and evidence comes slowly."""
_SCALED: Final = 3
"""Blocks that only set the scale. Fewer: one odd block sets it. More: so many days without evidence."""

_MOST: Final = 1e300
"""Wealth beyond this is as good; it must stay a number."""

Packed = list[float]
"""An `Evidence` as numbers, for the record."""


class Evidence:
    """Wealth of two gamblers, one on the rival being better, one on it being worse.

    Attributes:
        blocks: Blocks seen.
    """

    __slots__ = ("_better", "_squares", "_turned_better", "_turned_worse", "_worse", "blocks")

    def __init__(self) -> None:
        self.blocks = 0
        self._squares = 0.0
        self._better = [0.0] * len(BETS)
        self._worse = [0.0] * len(BETS)
        self._turned_better = [0.0] * len(BETS)
        self._turned_worse = [0.0] * len(BETS)

    def add(self, difference: float) -> None:
        """Bet on a block.

        Args:
            difference: The champion's mean loss less the rival's; above 0 the rival was better. Finite.
        """
        if self.blocks >= _SCALED and self._squares > 0.0:
            scale = _SPAN * math.sqrt(self._squares / self.blocks)
            x = min(1.0, max(-1.0, difference / scale))
            for at, bet in enumerate(BETS):
                self._better[at] += math.log1p(bet * x)
                self._worse[at] += math.log1p(-bet * x)
                self._turned_better[at] = min(_MOST, (self._turned_better[at] + 1.0) * (1.0 + bet * x))
                self._turned_worse[at] = min(_MOST, (self._turned_worse[at] + 1.0) * (1.0 - bet * x))
        self.blocks += 1
        self._squares += difference * difference

    @property
    def better(self) -> float:
        """What a stake of 1 on the rival has become; at 1/alpha and above equality is refuted at level alpha."""
        return _mean(self._better)

    @property
    def worse(self) -> float:
        """The same of a stake against it."""
        return _mean(self._worse)

    def shows_better(self, level: float, blocks: int) -> float:
        """Evidence at `level` that the rival is better, or has become so; at 1 and above it is shown.

        Args:
            level: Chance of being wrong, half of it for each of the two.
            blocks: Blocks of the trial, within which the level holds.
        """
        return max(self.better, sum(self._turned_better) / len(BETS) / blocks) * level / 2

    def shows_worse(self, level: float, blocks: int) -> float:
        """The same of the rival being worse, or having become so."""
        return max(self.worse, sum(self._turned_worse) / len(BETS) / blocks) * level / 2

    def pack(self) -> Packed:
        """All that it is."""
        return [
            float(self.blocks),
            self._squares,
            *self._better,
            *self._worse,
            *self._turned_better,
            *self._turned_worse,
        ]

    @classmethod
    def unpack(cls, packed: Packed) -> Evidence:
        """What `pack` was called on.

        Raises:
            ValueError: So many numbers are of no evidence.
        """
        size = len(BETS)
        if len(packed) != 2 + 4 * size:
            message = f"evidence of {len(packed)} numbers; expected {2 + 4 * size}"
            raise ValueError(message)
        made = cls()
        made.blocks, made._squares = int(packed[0]), packed[1]
        made._better, made._worse = packed[2 : 2 + size], packed[2 + size : 2 + 2 * size]
        made._turned_better, made._turned_worse = packed[2 + 2 * size : 2 + 3 * size], packed[2 + 3 * size :]
        return made


def _mean(logs: list[float]) -> float:
    # Above e^700 a double overflows; nobody asks for a level below that.
    return sum(math.exp(min(log, 690.0)) for log in logs) / len(logs)
