"""Bets on differences of loss: fair games stay below their level, edges are found, equal models give nothing."""

from __future__ import annotations

import numpy as np
import pytest

from operators.evidence import BETS, Evidence


def largest(rng: np.random.Generator, mean: float, blocks: int) -> tuple[float, float]:
    """The most that either wealth has been in a run of normal differences of standard deviation 1."""
    evidence = Evidence()
    better = worse = 0.0
    for difference in rng.normal(mean, 1.0, blocks).tolist():
        evidence.add(difference)
        better, worse = max(better, evidence.better), max(worse, evidence.worse)
    return better, worse


def test_a_fair_game_seldom_wins_whenever_one_looks() -> None:
    rng = np.random.default_rng(3)
    runs = [largest(rng, 0.0, 200) for _ in range(200)]
    # Ville: at most 5 % each way; 20 of 200 would be a chance of one in 1,000 at exactly 5 %.
    assert sum(better >= 20.0 for better, _ in runs) < 20
    assert sum(worse >= 20.0 for _, worse in runs) < 20


def test_a_game_with_an_edge_is_won_and_its_contrary_is_lost() -> None:
    rng = np.random.default_rng(4)
    runs = [largest(rng, 0.7, 60) for _ in range(50)]
    assert sum(better >= 20.0 for better, _ in runs) >= 45
    assert all(worse < 20.0 for _, worse in runs)


def test_what_turns_bad_after_weeks_is_seen_and_a_fair_game_is_not_called_bad() -> None:
    rng = np.random.default_rng(8)
    seen, cried, slow = 0, 0, 0
    for _ in range(60):
        turning, fair = Evidence(), Evidence()
        for difference in rng.normal(1.0, 1.0, 30).tolist():
            turning.add(difference)
        for difference in rng.normal(-1.5, 1.0, 30).tolist():
            turning.add(difference)
            if turning.shows_worse(0.05, 60) >= 1.0:
                seen += 1
                break
        for difference in rng.normal(0.0, 1.0, 60).tolist():
            fair.add(difference)
            if fair.shows_worse(0.05, 60) >= 1.0:
                cried += 1
                break
        slow += turning.worse < 40.0  # the plain wealth has the good weeks to make up for
    assert seen >= 50
    assert slow >= 50
    assert cried <= 7


def test_heavy_tails_do_not_win_a_fair_game() -> None:
    rng = np.random.default_rng(5)
    won = 0
    for _ in range(100):
        evidence = Evidence()
        for difference in rng.standard_t(1.5, 100).tolist():
            evidence.add(difference)
            if evidence.better >= 20.0:
                won += 1
                break
    assert won < 13


def test_equal_models_leave_the_stake_as_it_is() -> None:
    evidence = Evidence()
    for _ in range(100):
        evidence.add(0.0)
    assert (evidence.better, evidence.worse, evidence.blocks) == (1.0, 1.0, 100)


def test_the_first_blocks_set_the_scale_and_are_not_bet_on() -> None:
    evidence = Evidence()
    for _ in range(3):
        evidence.add(5.0)
        assert evidence.better == 1.0
    evidence.add(5.0)
    expected = sum(1 + bet / 1.5 for bet in BETS) / len(BETS)
    assert evidence.better == pytest.approx(expected)


def test_evidence_goes_on_from_its_numbers_as_if_nothing_had_been() -> None:
    rng = np.random.default_rng(6)
    whole, cut = Evidence(), Evidence()
    for difference in rng.normal(0.2, 1.0, 40).tolist():
        whole.add(difference)
        cut.add(difference)
        cut = Evidence.unpack(cut.pack())
    assert cut.pack() == whole.pack()


def test_numbers_of_another_evidence_are_refused() -> None:
    with pytest.raises(ValueError, match="evidence of 3 numbers; expected 22"):
        Evidence.unpack([1.0, 2.0, 3.0])
