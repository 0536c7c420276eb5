"""From where on slots are read back; the rest of the sink is held by test_connectors.py and the kills of live flows."""

from __future__ import annotations

from flows.kafka_sink import earliest


def test_slots_are_read_back_from_the_earliest_place_of_all() -> None:
    assert earliest([{"d": {0: 5, 1: 9}, "l": {0: 2}}, {"d": {0: 7, 1: 3}, "l": {0: 2}}]) == {
        "d": {0: 5, 1: 3},
        "l": {0: 2},
    }
    assert earliest([]) == {}


def test_a_partition_that_one_slot_does_not_know_is_read_from_its_first_record_on() -> None:
    """Slots of two processes, one of which had published nothing to a new shard yet, in a process that has both."""
    assert earliest([{"d": {0: 5}}, {"d": {0: 7, 2: 40}}, {}]) == {"d": {}}
    assert earliest([{"d": {0: 5}}, {"d": {0: 7, 2: 40}}]) == {"d": {0: 5}}
