"""What is told at an epoch's end is how things stood an epoch before, and is on disk by then."""

from __future__ import annotations

import threading

import pytest

from flows.epochs import BackgroundSync, Epochs, OneLate
from schemas.errors import StateError


def test_what_is_told_is_one_epoch_late_but_for_the_last_one() -> None:
    epochs = Epochs()
    late = OneLate(epochs, 0)
    assert [late.tell(1), late.tell(2)] == [0, 1]
    epochs.final = True
    assert late.tell(3) == 3


def test_an_epoch_in_which_nobody_was_woken_tells_what_was_told_last() -> None:
    late = OneLate(Epochs(), 0)
    assert late.again() == 0
    late.tell(1)
    late.tell(2)
    assert late.again() == 1
    assert late.tell(3) == 2


def test_the_first_part_of_an_epoch_wakes_and_no_other() -> None:
    epochs = Epochs()
    assert [epochs.begins(), epochs.begins()] == [True, False]
    assert not epochs.empty
    epochs.end()
    assert epochs.empty
    assert (epochs.begins(), epochs.number) == (True, 1)


def test_a_sync_runs_beside_the_next_epoch_and_is_over_at_its_end() -> None:
    let_go = threading.Event()
    synced: list[int] = []

    def sync() -> None:
        let_go.wait()
        synced.append(len(synced))

    background = BackgroundSync(sync, Epochs())
    background.epoch_ends()  # does not wait, or this would never end
    assert synced == []
    let_go.set()
    background.epoch_ends()
    assert synced[0] == 0
    background.close()
    assert synced == [0, 1]


def test_the_last_epochs_sync_is_waited_for() -> None:
    epochs = Epochs()
    synced: list[int] = []
    background = BackgroundSync(lambda: synced.append(1), epochs)
    background.epoch_ends()
    epochs.final = True
    background.epoch_ends()
    assert synced == [1, 1]


def test_a_disk_that_refuses_is_told_before_the_snapshot_that_needs_it() -> None:
    def refuse() -> None:
        message = "shard a: RocksDB refuses to write"
        raise StateError(message)

    background = BackgroundSync(refuse, Epochs())
    background.epoch_ends()
    with pytest.raises(StateError, match="refuses to write"):
        background.epoch_ends()
    background.close()
