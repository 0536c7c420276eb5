import random

from state.cache import ENTRY_OVERHEAD, RecordCache


def put(cache: RecordCache, member: int, key: bytes, value: bytes | None) -> None:
    records = cache._members[member]
    records.young[key] = value
    cache.charge(ENTRY_OVERHEAD + len(key) + len(value or b""))


def bytes_held(cache: RecordCache) -> int:
    return sum(
        ENTRY_OVERHEAD + len(key) + len(value or b"")
        for member in cache._members
        for generation in (member.young, member.old)
        for key, value in generation.items()
    )


def test_all_stores_together_never_hold_more_than_the_limit_and_one_call() -> None:
    rng = random.Random(3)
    limit = 50_000
    cache = RecordCache(limit)
    for _ in range(4):
        cache.member()
    largest = 0
    for _ in range(20_000):
        put(cache, rng.randrange(4), b"k%d" % rng.randrange(3_000), b"v" * rng.randrange(500))
        largest = max(largest, bytes_held(cache))
    assert largest <= limit + ENTRY_OVERHEAD + 510
    assert largest > limit // 2, "half of the bound is never used"


def test_writing_the_same_few_records_again_and_again_evicts_nothing() -> None:
    cache = RecordCache(100_000)
    cache.member()
    put(cache, 0, b"seldom", b"value")
    for number in range(10_000):
        put(cache, 0, b"hot%d" % (number % 20), b"v" * 100)
    assert cache._members[0].young[b"seldom"] == b"value"
    assert cache.records() == 21


def test_what_was_not_used_for_two_generations_is_forgotten() -> None:
    cache = RecordCache(20_000)
    member = cache.member()
    put(cache, 0, b"first", b"value")
    for number in range(200):
        put(cache, 0, b"k%d" % number, b"v" * 100)
    assert b"first" not in member.young
    assert b"first" not in member.old
    assert b"k199" in member.young


def test_a_limit_of_zero_keeps_nothing() -> None:
    cache = RecordCache(0)
    cache.member()
    put(cache, 0, b"a", b"1")
    put(cache, 0, b"b", b"1")
    assert cache.records() <= 2
    put(cache, 0, b"c", b"1")
    assert cache.records() <= 2


def test_records_of_a_closed_store_are_forgotten_and_no_longer_counted() -> None:
    cache = RecordCache(10_000)
    gone, stays = cache.member(), cache.member()
    put(cache, 0, b"a", b"1")
    put(cache, 1, b"b", b"1")
    cache.dismiss(gone)
    assert cache.records() == 1
    assert gone.young == {}
    assert stays.young == {b"b": b"1"}
