"""`weir`, started so that it ends itself at a named point, as SIGKILL would: what no clock from outside can hit.

    python -m load_tests.campaign.victim [--point NAME --hits N] [--before FILE] -- replay --profile ...

Between two commits of a snapshot lie microseconds, and a line is torn only while it is being written. A watcher outside
would hit such a moment once in thousands of kills; a hook in the program would be a switch in production code. So
the functions are wrapped here, from outside, before `flows.cli` runs. At the N-th arrival the process kills itself.

    commit     a step is about to commit: others of the same snapshot have committed, this one has not
    sync       everything has committed, nothing is durable
    synced     all is durable, the engine has not noted the epoch
    write      half of what was to be published stands in the file
    manifest   a new state folder is complete but for its manifest
    open       a shard is about to be opened
    rollback   a batch of a rollback is about to be written
    adopted    an output has been read back, nothing is decided yet
    read_back  the same of topics
    delivered  a snapshot of topics has all records delivered, and its ledger does not know yet

`--before FILE` runs a Python file first; the campaign's own tests use it to break the program on purpose. The members
of a cluster are started the same way as the process that starts them.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from flows.cluster import Cluster
    from flows.stopping import StopSignals

POINTS: Final = (
    "commit",
    "sync",
    "synced",
    "write",
    "manifest",
    "open",
    "rollback",
    "adopted",
    "read_back",
    "delivered",
)


class _Countdown:
    """Kills this process when it was called a number of times."""

    def __init__(self, hits: int) -> None:
        self._left = hits

    def due(self) -> bool:
        self._left -= 1
        return self._left == 0

    def hit(self) -> None:
        if self.due():
            die()


def die() -> None:
    """End this process as a kill from outside would: no handler, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, hits: int) -> None:
    """Wrap what `point` names, so that its arrival number `hits` is this process's last."""
    import flows.publish  # noqa: PLC0415  # only a process that is to die needs them this early
    import flows.replay  # noqa: PLC0415
    import state.rollback  # noqa: PLC0415
    import state.shard  # noqa: PLC0415
    import state.step_store  # noqa: PLC0415
    import state.store  # noqa: PLC0415

    countdown = _Countdown(hits)
    home, slot = state.store.StateHome, flows.publish.FileSlot
    if point == "commit":
        _wrap(state.step_store.RocksStepStore, "commit", before=countdown.hit)
    elif point == "sync":
        _wrap(home, "sync", before=countdown.hit)
    elif point == "synced":
        _wrap(home, "sync", after=countdown.hit)
    elif point == "open":
        _wrap(state.shard.Shard, "_open_db", before=countdown.hit)
    elif point == "rollback":
        _wrap(state.rollback, "_write", before=countdown.hit)
    elif point == "adopted":
        _wrap(slot, "__init__", after=countdown.hit)
    elif point == "manifest":
        _wrap(flows.replay, "init_db_dir", after=countdown.hit)
    elif point in ("read_back", "delivered"):
        import flows.kafka_publish  # noqa: PLC0415
        import flows.kafka_sink  # noqa: PLC0415

        if point == "read_back":
            _wrap(flows.kafka_sink.Outputs, "adopt_once", after=countdown.hit)
        else:
            _wrap(flows.kafka_publish.Publisher, "epoch_ends", after=countdown.hit)
    elif point == "write":
        _tear(countdown)
    else:
        message = f"--point: expected one of {', '.join(POINTS)}, found {point!r}"
        raise SystemExit(message)


def _wrap(
    owner: Any, name: str, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> None:
    whole = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if before is not None:
            before()
        result = whole(*arguments, **named)
        if after is not None:
            after()
        return result

    setattr(owner, name, wrapped)


def _tear(countdown: _Countdown) -> None:
    """Let the last write to an output file be half of it."""
    whole = os.writev

    def writev(file: int, pieces: Any) -> int:
        if Path(f"/proc/self/fd/{file}").readlink().suffix == ".jsonl" and countdown.due():
            data = b"".join(pieces)
            os.write(file, data[: max(1, len(data) // 2)])
            die()
        return whole(file, pieces)

    os.writev = writev


def _start_members_alike(own: Sequence[str]) -> None:
    """Start a cluster's members as this process was started."""
    from flows import cluster  # noqa: PLC0415

    start = cluster.Cluster.run

    def run(self: Cluster, commands: Sequence[Sequence[str]], stops: StopSignals) -> int:
        plain = [sys.executable, "-m", "flows.cli"]
        if any(list(command[:3]) != plain for command in commands):
            message = f"victim: expected members to be started by {plain}, found {[list(one[:3]) for one in commands]}"
            raise SystemExit(message)
        alike = [sys.executable, "-m", "load_tests.campaign.victim", *own, "--"]
        return start(self, [[*alike, *command[3:]] for command in commands], stops)

    cluster.Cluster.run = run  # type: ignore[method-assign]  # the campaign's way to reach into the members


def main(arguments: Sequence[str]) -> None:
    """Run `weir` with what stands behind `--`."""
    cut = list(arguments).index("--")
    own, rest = list(arguments[:cut]), list(arguments[cut + 1 :])
    parser = argparse.ArgumentParser(prog="python -m load_tests.campaign.victim")
    parser.add_argument("--point", choices=POINTS)
    parser.add_argument("--hits", type=int, default=1)
    parser.add_argument("--before", type=Path)
    given = parser.parse_args(own)
    if given.before is not None:
        runpy.run_path(str(given.before))
    _start_members_alike(own)
    if given.point is not None:
        arm(given.point, given.hits)
    from flows import cli  # noqa: PLC0415

    sys.argv = ["weir", *rest]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1:])
