"""What of an account goes from a learner and from the ledger; the rest is in tests/flows/test_state_cli.py."""

from __future__ import annotations

import msgspec
import pytest

from operators.describe import LABEL_JOIN, LEDGER
from operators.erasure import READ_FROM, Change, Finder, Forgetting, Subject, order_of_steps
from operators.features import FeatureSet
from operators.inflight import InFlight
from operators.label_join import COUNTS, counts_after, kept_of
from state.testing import DictStore
from tests.operators.test_label_join import _decision, _join, _outcome, _tick, features

__all__ = ["features"]


def _paid(features: FeatureSet, number: int, at: int, account: str, card: str, payee: str | None = None) -> InFlight:
    item = _decision(features, number, at)
    detail = item.detail
    assert detail is not None
    detail.decision.update(account_id=account, card_id=card, counterparty_id=payee)  # type: ignore[attr-defined]
    return item


def test_a_learner_forgets_an_account_and_keeps_the_others(features: FeatureSet) -> None:
    told: list[tuple[str, int, int]] = []
    join, store = _join(features, told), DictStore()
    join.on_batch(
        store,
        [
            _paid(features, 1, 1, "mine", "c1"),
            _paid(features, 2, 2, "other", "c2", payee="mine"),
            _paid(features, 3, 3, "mine", "c2"),
            _outcome(3, 4),
            _paid(features, 4, 5, "third", "c3"),
        ],
    )
    join.on_snapshot(store)
    records = store.as_dict()
    assert LABEL_JOIN in READ_FROM
    finder = Finder(features, "mine")
    finder.look(LABEL_JOIN, records.items())
    subject = finder.found()
    assert (subject.transactions, subject.cards) == ({b"t1", b"t3"}, {"c1"})  # c2 is somebody else's too

    forgetting = Forgetting(features, subject, bytes(32))
    forgetting.enter("s00", LABEL_JOIN, lambda _key: None)
    changes: list[Change] = [
        change for key, value in records.items() if (change := forgetting.change(LABEL_JOIN, key, value)) is not None
    ]
    told_of = [(key, records[key], after) for key, after in changes]
    changes.append((COUNTS, counts_after(records[COUNTS], told_of)))
    store.put_many(changes)
    left = store.as_dict()
    everything = b"".join([*left.keys(), *left.values()])
    assert not [name for name in (b"t1", b"t3", b"mine") if name in everything]
    waiting = {key: value for key, value in left.items() if key[:1] == b"p"}
    assert [kept_of(value)["counterparty_id"] for value in waiting.values()] == [None, None]
    sizes = sum(len(key) + len(value) for key, value in waiting.items())
    assert msgspec.msgpack.decode(left[COUNTS]) == [2, sizes]

    again = _join(features, told)
    again.on_batch(store.reopened(store.commit()), [_tick(120)])
    assert told[-1][1:] == (2, sizes)


@pytest.mark.parametrize(
    "key",
    [b"adt1", b"alt1\x1fchargeback\x1f12", b"d\x00\x00\x00\x01t1", b"wt1"],
    ids=["decision", "label", "told", "retry"],
)
def test_the_ledger_forgets_decisions_and_labels_of_the_account(features: FeatureSet, key: bytes) -> None:
    forgetting = Forgetting(features, Subject("mine", {b"t1"}), bytes(32))
    assert forgetting.change(LEDGER, key, b"") == (key, None)
    assert forgetting.change(LEDGER, key.replace(b"t1", b"t11"), b"") is None


def test_a_learners_records_that_say_whose_they_are_go_last() -> None:
    steps = order_of_steps([("s00", LABEL_JOIN), ("s00", LEDGER), ("s00", "learn")])
    assert [step for _, step in steps] == [LEDGER, "learn", LABEL_JOIN]
