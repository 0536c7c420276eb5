"""What the engine's own panics are told as."""

from __future__ import annotations

from pathlib import Path

from flows.replay import engine_error
from schemas.errors import StateLockedError

BUSY = 'SqliteFailure(Error { code: DatabaseBusy, extended_code: 5 }, Some("database is locked"))'


def test_a_recovery_store_that_another_process_holds_is_told_in_a_sentence() -> None:
    told = engine_error(RuntimeError(f"called `Result::unwrap()` on an `Err` value: {BUSY}"), Path("state"), 0, ())
    assert isinstance(told, StateLockedError)
    assert "state state: its recovery store is open in another process" in str(told)


def test_what_is_not_known_stays_what_it_is() -> None:
    error = RuntimeError("something else")
    assert engine_error(error, Path("state"), 0, ()) is error
