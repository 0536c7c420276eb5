"""How good scores were, judged by labels that came later, with the score that was given when the payment was decided.

A judged payment counts in the day on which it was decided, since frauds are known sooner than genuine payments: a
window over days of labels would hold frauds of one week and genuine payments of another. A window is so many days up to
the last one whose labels have matured. Figures are told for every model, champion or challenger, over all payments and
by segment: channel, country, amount band. A label's weight is how many payments it stands for, so that figures of
sampled labels are those of all payments.

Memory is bounded: scores are counted in cells of the logit (1/16 wide; of a segment 1/2), days and segments are
limited, and of each day only the highest cards are kept. Within a cell scores count as equal: ranking figures differ
from those of exact scores by less than the share of pairs that meet in a cell.

State (`to_bytes`) is plain numbers, laid out by operators/array_artefact.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from operators.array_artefact import Arrays, pack, refuse, unpack
from operators.prequential_figures import AMOUNTS, BRIER, COLUMNS, FRAUD, FRAUD_AMOUNT, SCORES, Figures, figures
from operators.prequential_figures import GENUINE as GENUINE_WEIGHT

MAGIC: Final = b"WPQ\x01"
DAY_US: Final = 86_400_000_000
ALL: Final = "all"
OTHER: Final = "other"

_CELLS: Final = 512
_PER_LOGIT: Final = 16
_FURTHEST: Final = _CELLS / _PER_LOGIT / 2
_COARSER: Final = 8
"""Cells of a segment are as much wider: a segment holds fewer payments, and there are many segments."""
_SPARE: Final = 4
"""Cards kept a day for each that is asked for. Fewer, and a card whose later payment scores higher may be gone."""


@dataclass(frozen=True, slots=True)
class PrequentialConfig:
    """What is measured.

    Attributes:
        windows: Lengths in days, rising.
        mature_after_us: A day is told when its payments are this old.
        cards_a_day: k of the precision at k cards a day.
        amount_bands: Where bands of the amount begin, rising; base currency, major units.
        most_segments: Segments a model has at most, the first met; the rest counts together.
    """

    windows: tuple[int, ...] = (7, 28)
    mature_after_us: int = 7 * DAY_US
    cards_a_day: int = 100
    amount_bands: tuple[float, ...] = (10.0, 50.0, 200.0, 1000.0)
    most_segments: int = 32

    @property
    def keep_days(self) -> int:
        """Days kept: the longest window, and those that have not matured, twice as many for labels that are late."""
        return max(self.windows) + 2 * (self.mature_after_us // DAY_US + 1)


@dataclass(frozen=True, slots=True)
class Judged:
    """A payment whose label has come.

    Attributes:
        scores: Of each model when it was decided; None where it could not score.
        fraud: The label.
        weight: Payments it stands for.
        decided_at_us: When it was decided.
        card: Card or account, whose payments are judged together.
        amount: Base currency, major units; None or NaN when unknown.
        channel: Of the payment.
        country: Of the payment.
    """

    scores: Mapping[str, float | None]
    fraud: bool
    weight: float
    decided_at_us: int
    card: str
    amount: float | None
    channel: str | None
    country: str | None


class Prequential:
    """See the module.

    Attributes:
        judged: Payments counted.
        too_late: Labels whose day is no longer kept.
    """

    def __init__(self, config: PrequentialConfig) -> None:
        self._config = config
        self._counts: dict[tuple[int, str, str], NDArray[np.float64]] = {}
        self._cards: dict[tuple[int, str], dict[int, tuple[float, float, bool]]] = {}
        self._segments: dict[str, None] = {}
        self._newest = -1
        self.judged = 0
        self.too_late = 0

    def observe(self, judged: Judged) -> None:
        """Count a payment."""
        day = judged.decided_at_us // DAY_US
        if day > self._newest:
            self._newest = day
            self._forget(day - self._config.keep_days)
        elif day <= self._newest - self._config.keep_days:
            self.too_late += 1
            return
        self.judged += 1
        amount = judged.amount
        money = 0.0 if amount is None or math.isnan(amount) else amount
        segments = [self._segment(name) for name in self._names(judged, amount)]
        card = xxhash.xxh3_64_intdigest(judged.card.encode())
        for model, score in judged.scores.items():
            if score is None:
                continue
            cell = _cell(score)
            self._add(day, model, ALL, cell, _CELLS, score, money, judged)
            for segment in segments:
                self._add(day, model, segment, cell // _COARSER, _CELLS // _COARSER, score, money, judged)
            self._note_card(day, model, card, score, judged)

    def figures(self, now_us: int) -> dict[str, dict[str, dict[str, Figures]]]:
        """All figures: model → window ("7d") → segment → figures; without payments or without one class they are None.

        Args:
            now_us: Days whose payments have matured by then are told.
        """
        last = (now_us - self._config.mature_after_us) // DAY_US - 1
        told: dict[str, dict[str, dict[str, Figures]]] = {}
        models = list(dict.fromkeys(model for _, model, _ in self._counts))
        for model in models:
            told[model] = {}
            for window in self._config.windows:
                days = range(last - window + 1, last + 1)
                found: dict[str, Figures] = {}
                for segment in (ALL, *self._segments):
                    parts = [self._counts[key] for day in days if (key := (day, model, segment)) in self._counts]
                    if parts:
                        cards = self._precision(days, model) if segment == ALL else None
                        found[segment] = figures(np.sum(parts, axis=0), cards)
                told[model][f"{window}d"] = found
        return told

    def to_bytes(self) -> bytes:
        """All that it is; what `from_bytes` makes of it goes on exactly as this one would."""
        arrays: Arrays = {}
        for at, counts in enumerate(self._counts.values()):
            met = np.flatnonzero(counts.any(axis=1))
            arrays[f"cells {at}"] = met.astype(np.uint32)
            arrays[f"counts {at}"] = counts[met]
        for at, cards in enumerate(self._cards.values()):
            arrays[f"cards {at}"] = np.array(list(cards), dtype=np.uint64)
            arrays[f"scores {at}"] = np.array([(a, b, float(c)) for a, b, c in cards.values()]).reshape(-1, 3)
        header = {
            "counts": [list(key) for key in self._counts],
            "cards": [list(key) for key in self._cards],
            "segments": list(self._segments),
            "newest": self._newest,
            "judged": self.judged,
            "too_late": self.too_late,
        }
        return pack(MAGIC, header, arrays)

    @classmethod
    def from_bytes(cls, packed: bytes, config: PrequentialConfig) -> Prequential:
        """What `to_bytes` was called on.

        Raises:
            StateLayoutError: the bytes are of another format, cut off or altered.
        """
        header, arrays = unpack(MAGIC, packed)
        made = cls(config)
        for at, (day, model, segment) in enumerate(header["counts"]):
            size = _CELLS if segment == ALL else _CELLS // _COARSER
            met, values = arrays[f"cells {at}"], arrays[f"counts {at}"]
            if values.shape != (len(met), COLUMNS) or (len(met) and int(met.max()) >= size):
                refuse("counts of cells that there are not")
            counts = np.zeros((size, COLUMNS), dtype=np.float64)
            counts[met] = values
            made._counts[day, model, segment] = counts
        for at, (day, model) in enumerate(header["cards"]):
            rows: Any = arrays[f"scores {at}"].tolist()
            cards = arrays[f"cards {at}"].tolist()
            made._cards[day, model] = {card: (a, b, c > 0) for card, (a, b, c) in zip(cards, rows, strict=True)}
        made._segments = dict.fromkeys(header["segments"])
        made._newest, made.judged, made.too_late = header["newest"], header["judged"], header["too_late"]
        return made

    def _names(self, judged: Judged, amount: float | None) -> Iterator[str]:
        if judged.channel is not None:
            yield f"channel {judged.channel}"
        if judged.country is not None:
            yield f"country {judged.country}"
        if amount is not None and not math.isnan(amount):
            bands = self._config.amount_bands
            at = sum(amount >= band for band in bands)
            yield f"amount below {bands[0]:g}" if at == 0 else f"amount from {bands[at - 1]:g}"

    def _segment(self, name: str) -> str:
        if name not in self._segments:
            if len(self._segments) >= self._config.most_segments:
                name = OTHER
            self._segments[name] = None
        return name

    def _add(
        self, day: int, model: str, segment: str, cell: int, cells: int, score: float, money: float, judged: Judged
    ) -> None:
        key = (day, model, segment)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = np.zeros((cells, COLUMNS), dtype=np.float64)
        row, weight = counts[cell], judged.weight
        row[FRAUD if judged.fraud else GENUINE_WEIGHT] += weight
        if judged.fraud:
            row[FRAUD_AMOUNT] += weight * money
        row[AMOUNTS] += weight * money
        row[SCORES] += weight * score
        row[BRIER] += weight * (score - judged.fraud) ** 2

    def _note_card(self, day: int, model: str, card: int, score: float, judged: Judged) -> None:
        cards = self._cards.setdefault((day, model), {})
        known = cards.get(card)
        if known is not None:
            highest, weight, fraud = known
            cards[card] = (max(highest, score), min(weight, judged.weight), fraud or judged.fraud)
            return
        cards[card] = (score, judged.weight, judged.fraud)
        most = self._config.cards_a_day * _SPARE
        if len(cards) >= 2 * most:
            kept = sorted(cards.items(), key=lambda entry: (-entry[1][0], entry[0]))[:most]
            self._cards[day, model] = dict(kept)

    def _precision(self, days: range, model: str) -> float | None:
        """Share of frauds among the k cards of a day with the highest scores, mean over the days that have any."""
        found = []
        for day in days:
            cards = self._cards.get((day, model))
            if not cards:
                continue
            left, hits = float(self._config.cards_a_day), 0.0
            for _, weight, fraud in sorted(cards.values(), key=lambda card: -card[0]):
                taken = min(weight, left)
                hits += taken if fraud else 0.0
                left -= taken
                if left <= 0.0:
                    break
            found.append(hits / self._config.cards_a_day)
        return math.fsum(found) / len(found) if found else None

    def _forget(self, before: int) -> None:
        self._counts = {key: counts for key, counts in self._counts.items() if key[0] > before}
        self._cards = {key: cards for key, cards in self._cards.items() if key[0] > before}


def _cell(score: float) -> int:
    if score <= 0.0:
        return 0
    if score >= 1.0:
        return _CELLS - 1
    logit = math.log(score / (1.0 - score))
    return min(max(int((logit + _FURTHEST) * _PER_LOGIT), 0), _CELLS - 1)
