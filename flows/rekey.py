"""`weir state rekey`: all records of a state folder written anew under the active key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def rekey_command(
    state: Annotated[Path, typer.Option(help="State folder of a flow that is stopped.")],
    state_keys: Annotated[
        Path | None, typer.Option(help="The keys, old and active; default: WEIR_STATE_KEYS_FILE or WEIR_STATE_KEYS.")
    ] = None,
) -> None:
    """Write everything under the active key, so that other keys may be destroyed; see docs/runbooks/state-keys.md."""
    from schemas.errors import SecretError  # noqa: PLC0415  # --help must not wait for RocksDB to load
    from state.keys import StateKeys  # noqa: PLC0415
    from state.rekey import rekey  # noqa: PLC0415

    keys = StateKeys.from_file(state_keys) if state_keys else StateKeys.from_environment(os.environ)
    if keys is None:
        message = "weir state rekey: no state keys are given; set WEIR_STATE_KEYS_FILE or give --state-keys"
        raise SecretError(message)
    shards = state / "shards"
    done = rekey(shards if shards.is_dir() else state, keys)
    typer.echo(
        f"weir: {done.shards} shards, {done.rewritten:,} records written anew under key {keys.active!r}", err=True
    )
