from __future__ import annotations

from flows.arrivals import HELD_UP_S, Arrivals


class Sent:
    def __init__(self, topic: str, partition: int, ms: int, name: str) -> None:
        self._place, self._ms, self.name = (topic, partition), ms, name

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def timestamp(self) -> tuple[int, int]:
        return 2, self._ms


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _names(taken: list[Sent]) -> str:
    return "".join(one.name for one in taken)


def test_partitions_are_merged_by_the_time_of_appending_and_keep_their_own_order() -> None:
    arrivals = Arrivals()
    for place in (("t", 0), ("t", 1)):
        arrivals.add(place)
        arrivals.at_end(place)
    for sent in (Sent("t", 0, 10, "a"), Sent("t", 0, 5, "b"), Sent("t", 0, 30, "d"), Sent("t", 1, 20, "c")):
        arrivals.push(sent)
    assert _names(arrivals.take(2)) == "ab"
    assert _names(arrivals.take(9)) == "cd"
    assert arrivals.waiting == 0


def test_nothing_overtakes_a_partition_that_is_catching_up() -> None:
    arrivals = Arrivals(Clock())
    arrivals.add(("payments", 0))
    arrivals.add(("devices", 0))
    arrivals.push(Sent("payments", 0, 10, "p"))
    arrivals.at_end(("payments", 0))
    assert arrivals.take(9) == []
    arrivals.push(Sent("devices", 0, 9, "d"))
    assert _names(arrivals.take(9)) == "d"  # the payment waits: the next device event may have come before it
    arrivals.push(Sent("devices", 0, 11, "e"))
    assert _names(arrivals.take(9)) == "pe"
    arrivals.push(Sent("payments", 0, 20, "q"))
    assert arrivals.take(9) == []
    arrivals.at_end(("devices", 0))
    assert _names(arrivals.take(9)) == "q"


def test_a_partition_that_delivers_nothing_holds_up_the_others_for_a_while_only() -> None:
    clock = Clock()
    arrivals = Arrivals(clock)
    arrivals.add(("payments", 0))
    arrivals.add(("devices", 0))
    arrivals.push(Sent("payments", 0, 10, "p"))
    arrivals.at_end(("payments", 0))
    clock.now += HELD_UP_S - 0.1
    assert arrivals.take(9) == []
    clock.now += 0.2
    assert _names(arrivals.take(9)) == "p"


def test_a_crowd_is_told_while_others_catch_up() -> None:
    arrivals = Arrivals(Clock())
    arrivals.add(("payments", 0))
    arrivals.add(("devices", 0))
    for number in range(4):
        arrivals.push(Sent("payments", 0, 10 + number, "p"))
    assert arrivals.crowded(3) == [("payments", 0)]
    assert arrivals.crowded(4) == []
    arrivals.at_end(("devices", 0))
    assert len(arrivals.take(2)) == 2
    assert arrivals.waiting_of(("payments", 0)) == 2
    arrivals.at_end(("payments", 0))
    assert arrivals.crowded(0) == []
    assert arrivals.waiting == 2


def test_settled_messages_come_in_the_order_of_their_appends_whenever_they_were_read() -> None:
    now = [0.0]
    sent = [
        Sent("b", 0, 10, "2"),
        Sent("a", 1, 10, "1"),
        Sent("a", 0, 10, "0"),
        Sent("a", 0, 30, "4"),
        Sent("b", 0, 20, "3"),
    ]
    for order in (sent, [sent[0], sent[2], sent[4], sent[1], sent[3]]):
        arrivals = Arrivals(Clock(), 0.005, lambda: now[0])
        for place in (("a", 0), ("a", 1), ("b", 0)):
            arrivals.add(place)
            arrivals.at_end(place)
        for one in order:
            arrivals.push(one)
        now[0] = 14.0
        assert arrivals.take(9) == []  # appended at 10: another partition may still bring what came before
        now[0] = 26.0
        assert _names(arrivals.take(9)) == "0123"
        now[0] = 99.0
        assert _names(arrivals.take(9)) == "4"
