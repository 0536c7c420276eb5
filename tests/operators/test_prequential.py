from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from operators.prequential import ALL, DAY_US, Judged, Prequential, PrequentialConfig, _cell
from operators.prequential_figures import Figures
from schemas.errors import StateLayoutError

CONFIG = PrequentialConfig(cards_a_day=5)
START = 20_000 * DAY_US
LATER = START + 60 * DAY_US


def payments(count: int, seed: int, days: int = 7) -> list[Judged]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        fraud = rng.random() < 0.05
        logit = rng.gauss(1.0 if fraud else -3.0, 1.5)
        made.append(
            Judged(
                scores={"champion": 1 / (1 + math.exp(-logit)), "challenger": rng.random()},
                fraud=fraud,
                weight=1.0 if fraud else 5.0,
                decided_at_us=START + rng.randrange(days) * DAY_US + rng.randrange(DAY_US),
                card=f"C{rng.randrange(400)}",
                amount=rng.lognormvariate(3.5, 1.0),
                channel=rng.choice(["atm", "ecommerce"]),
                country=rng.choice(["DE", "FR", None]),
            )
        )
    return made


def observed(judged: list[Judged], config: PrequentialConfig = CONFIG) -> Prequential:
    made = Prequential(config)
    for one in judged:
        made.observe(one)
    return made


def told(made: Prequential, model: str = "champion", segment: str = ALL, end: int = START + 14 * DAY_US) -> Figures:
    return made.figures(end)[model]["7d"][segment]


def brute_force(judged: list[Judged], model: str, cells: bool) -> dict[str, float]:
    """All figures from single payments, pair by pair; scores as such, or those of one cell made equal."""
    scores = np.array([_cell(one.scores[model] or 0.0) if cells else one.scores[model] for one in judged], dtype=float)
    truth = np.array([one.fraud for one in judged])
    weight = np.array([one.weight for one in judged])
    amount = np.array([one.amount or 0.0 for one in judged])
    fraud, genuine = np.flatnonzero(truth), np.flatnonzero(~truth)
    wins = (scores[fraud][:, None] > scores[genuine]) + 0.5 * (scores[fraud][:, None] == scores[genuine])
    pairs = weight[fraud][:, None] * weight[genuine]
    average, reached = 0.0, 0.0
    for level in sorted(set(scores.tolist()), reverse=True):
        above = scores >= level
        recall = weight[above & truth].sum() / weight[truth].sum()
        average += (recall - reached) * weight[above & truth].sum() / weight[above].sum()
        reached = recall
    said = np.array([one.scores[model] for one in judged], dtype=float)
    found = {"auc": float((wins * pairs).sum() / pairs.sum()), "average_precision": average}
    found["brier"] = float((weight * (said - truth) ** 2).sum() / weight.sum())
    for name, share in (("recall_at_0_1_percent", 0.001), ("recall_at_1_percent", 0.01)):
        order = genuine[np.argsort(-scores[genuine], kind="stable")]
        rates = np.cumsum(weight[order]) / weight[genuine].sum()
        limit = scores[order[int(np.searchsorted(rates, share, side="right"))]]
        found[name] = float(weight[truth & (scores > limit)].sum() / weight[truth].sum())
        found[f"{name} or equal"] = float(weight[truth & (scores >= limit)].sum() / weight[truth].sum())
        if share == 0.01:
            found["money"] = float(amount[truth & (scores > limit)].sum() / amount[truth].sum())
            found["money or equal"] = float(amount[truth & (scores >= limit)].sum() / amount[truth].sum())
    return found


@pytest.mark.parametrize("model", ["champion", "challenger"])
def test_figures_are_those_of_single_payments(model: str) -> None:
    judged = payments(3_000, seed=1)
    figures = told(observed(judged), model)
    exact, equal = brute_force(judged, model, cells=False), brute_force(judged, model, cells=True)

    assert figures.payments == pytest.approx(sum(one.weight for one in judged))
    assert figures.frauds == sum(one.fraud for one in judged)
    assert figures.brier == pytest.approx(exact["brier"])
    assert figures.auc == pytest.approx(equal["auc"], abs=1e-12)
    assert figures.average_precision == pytest.approx(equal["average_precision"], abs=1e-12)
    assert figures.auc == pytest.approx(exact["auc"], abs=0.002)
    assert figures.average_precision == pytest.approx(exact["average_precision"], abs=0.01)
    for name in ("recall_at_0_1_percent", "recall_at_1_percent"):
        assert equal[name] - 1e-12 <= getattr(figures, name) <= equal[f"{name} or equal"] + 1e-12
    assert equal["money"] - 1e-12 <= (figures.money_at_1_percent or 0) <= equal["money or equal"] + 1e-12


def test_weights_restore_what_sampling_left_out() -> None:
    everything = [replace(one, weight=1.0) for one in payments(20_000, seed=1)]
    rng = random.Random(2)
    sampled = [replace(one, weight=1.0 if one.fraud else 5.0) for one in everything if one.fraud or rng.random() < 0.2]
    whole, part = told(observed(everything)), told(observed(sampled))

    assert part.payments == pytest.approx(whole.payments, rel=0.03)
    assert part.average_precision == pytest.approx(whole.average_precision or 0, abs=0.02)
    assert part.calibration_error == pytest.approx(whole.calibration_error or 0, abs=0.005)


def test_true_probabilities_have_no_calibration_error_and_doubled_ones_have_theirs() -> None:
    rng = random.Random(5)
    base = payments(1, seed=1)[0]
    chances = [rng.betavariate(1, 9) for _ in range(40_000)]
    drawn = [(p, rng.random() < p) for p in chances]
    sound = observed([replace(base, scores={"champion": p}, fraud=fraud, weight=1.0) for p, fraud in drawn])
    doubled = observed([replace(base, scores={"champion": p * 2}, fraud=fraud, weight=1.0) for p, fraud in drawn
                        if p < 0.5])  # fmt: skip

    assert (told(sound).calibration_error or 1) < 0.006
    assert told(doubled).calibration_error == pytest.approx(0.1, abs=0.01)


def test_precision_at_cards_is_that_of_the_cards_of_each_day() -> None:
    judged = [replace(one, weight=1.0) for one in payments(3_000, seed=3)]
    days = []
    for day in range(7):
        cards: dict[str, tuple[float, bool]] = {}
        for one in judged:
            if (one.decided_at_us - START) // DAY_US == day:
                score, fraud = cards.get(one.card, (0.0, False))
                cards[one.card] = (max(score, one.scores["champion"] or 0.0), fraud or one.fraud)
        top = sorted(cards.values(), reverse=True)[:5]
        days.append(sum(fraud for _, fraud in top) / 5)

    assert told(observed(judged)).precision_at_cards == pytest.approx(sum(days) / 7)


def test_a_window_ends_with_the_last_day_that_has_matured() -> None:
    judged = payments(4_000, seed=1, days=20)
    made = observed(judged)
    for end in (14, 18, 25):
        expected = [one for one in judged if end - 14 <= (one.decided_at_us - START) // DAY_US < end - 7]
        assert told(made, end=START + end * DAY_US).payments == pytest.approx(sum(one.weight for one in expected))
    assert made.figures(LATER + 60 * DAY_US)["champion"]["7d"] == {}


def test_segments_add_up_to_all() -> None:
    judged = payments(3_000, seed=1)
    made = observed(judged)
    found = made.figures(START + 14 * DAY_US)["champion"]["7d"]
    total = found[ALL].payments

    for kind in ("channel", "amount"):
        assert sum(figures.payments for name, figures in found.items() if name.startswith(kind)) == pytest.approx(total)
    atm = [one for one in judged if one.channel == "atm"]
    assert found["channel atm"].auc == pytest.approx(brute_force(atm, "champion", cells=False)["auc"], abs=0.02)
    assert found["channel atm"].precision_at_cards is None
    assert set(found) >= {"country DE", "country FR", "amount below 10", "amount from 10", "amount from 200"}


def test_it_goes_on_from_its_bytes_as_if_never_stopped() -> None:
    judged = payments(3_000, seed=1, days=60)
    whole, resumed = observed(judged), Prequential(CONFIG)
    for at, one in enumerate(judged):
        resumed.observe(one)
        if at % 500 == 0:
            resumed = Prequential.from_bytes(resumed.to_bytes(), CONFIG)

    assert resumed.to_bytes() == whole.to_bytes()
    assert resumed.figures(LATER) == whole.figures(LATER)
    with pytest.raises(StateLayoutError, match="cut off or altered"):
        Prequential.from_bytes(whole.to_bytes()[:-1], CONFIG)


def test_memory_is_bounded_whatever_the_traffic() -> None:
    rng = random.Random(1)
    made = Prequential(CONFIG)
    base = payments(1, seed=1)[0]
    for at in range(6_000):
        made.observe(
            replace(
                base,
                decided_at_us=START + at * DAY_US // 30,
                card=f"C{at}",
                country=f"{rng.randrange(500)}",
                scores={"champion": rng.random()},
            )
        )
    days = {day for day, _, _ in made._counts}

    assert len(days) <= CONFIG.keep_days
    assert len(made._segments) <= CONFIG.most_segments + 1
    assert "other" in made._segments
    assert all(len(cards) < 2 * 4 * CONFIG.cards_a_day for cards in made._cards.values())
    made.observe(replace(base, decided_at_us=START))
    assert made.too_late == 1


def test_without_payments_or_with_one_class_figures_are_undefined() -> None:
    genuine = [replace(one, fraud=False) for one in payments(100, seed=1)]
    figures = told(observed(genuine))

    assert (figures.auc, figures.average_precision, figures.recall_at_1_percent) == (None, None, None)
    assert figures.brier is not None
    assert observed([replace(one, scores={"champion": None}) for one in genuine]).figures(LATER) == {}
