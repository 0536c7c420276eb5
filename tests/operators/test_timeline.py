from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from operators.timeline import LIMIT, insert, seconds_since, state_at

CHANGES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), max_size=LIMIT)


@settings(max_examples=200)
@given(changes=CHANGES, asked=st.integers(-1, 13))
def test_a_status_is_that_of_the_last_change_at_or_before_the_time_whatever_the_order_of_arrival(
    changes: list[tuple[int, int]], asked: int
) -> None:
    timeline: list[int] = []
    for time_us, state in changes:
        insert(timeline, time_us * 500_000, state)
    past = [(time_us, arrival, state) for arrival, (time_us, state) in enumerate(changes) if time_us <= asked]
    assert state_at(timeline, asked * 500_000) == (max(past)[2] if past else None)
    assert seconds_since(timeline, asked * 500_000) == ((asked - max(past)[0]) / 2 if past else None)


def test_a_full_timeline_keeps_the_latest_changes() -> None:
    timeline: list[int] = []
    for time_us in range(1, LIMIT + 3):
        insert(timeline, time_us, time_us & 1)
    insert(timeline, 0, 1)
    assert [entry >> 1 for entry in timeline] == list(range(3, LIMIT + 3))
    assert state_at(timeline, 2) is None
    assert state_at(timeline, 3) == 1
