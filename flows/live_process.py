"""One process of a live flow, or the cluster of them: what stands around the flow itself.

weir.toml → signals, logs, metrics and health, watchdog, backups → the flow; the exit codes of flows/exits.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flows.cluster import CLUSTER_GRACE_S, Cluster, end_with_parent, free_addresses
from flows.config import Config
from flows.exits import describe_exit, end_on_errors, exit_code
from flows.logs import event_log, fields, set_up, tear_down
from flows.stopping import StopSignals
from flows.streams import parse_stream
from schemas.errors import ConfigError, WeirError

if TYPE_CHECKING:
    from flows.live_metrics import LiveMetrics
    from flows.profile import Profile
    from flows.source import Run

CONTRACTS: Final = {
    "transactions": "transaction",
    "device_events": "device_event",
    "identity_events": "identity_event",
    "outcomes": "outcome",
    "labelled_outcomes": "labelled_outcome",
    "decisions": "decision",
    "models": "model_release",
    "alerts": "alert",
}
"""Contract by stream."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process's place in its cluster.

    Attributes:
        number: From 0.
        addresses: host:port of each process, this one included.
    """

    number: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """What a flow is given.

    Attributes:
        config: weir.toml.
        profile: The profile it names.
        run: Its figures, and whether to stop.
        metrics: Hooks for source and sink.
        member: Its place in the cluster, None alone.
    """

    config: Config
    profile: Profile
    run: Run
    metrics: LiveMetrics
    member: Member | None


Flow = Callable[[LiveProcess], None]
"""Runs until `run.stop` is set; raises what ends the process."""


def now_us() -> int:
    """The clock of live flows: of this machine, UTC."""
    return time.time_ns() // 1000


def topic_of(url: str) -> str:
    """What a stream's URL calls its topic."""
    return parse_stream("", url).topic


def run_processes(
    config: Config,
    words: list[str],
    flow: Flow,
    process: int | None,
    member: str | None,
    program: str = "flows.cli",
) -> int:
    """Run a live flow: one process, a cluster on this host, or one process of a cluster over several.

    Args:
        config: weir.toml, with the number of processes that is to run.
        words: Command line behind the program's name, to start the processes of a cluster by.
        flow: The flow.
        process: Number of this process among `config.addresses`, None: not such a one.
        member: "NUMBER,ADDRESS,..." where a cluster on this host has started this process, None elsewhere.
        program: Module that knows `words`.

    Returns:
        The exit code.

    Raises:
        WeirError: The flow cannot start, or failed.
    """
    if member is not None:
        end_with_parent()
        number, *addresses = member.split(",")
        return _run_one(config, flow, Member(int(number), tuple(addresses)))
    if config.addresses:
        if process is None:
            message = (
                f"{config.path}: cluster.addresses names {len(config.addresses)} processes; expected --process 0 to "
                f"{len(config.addresses) - 1}, which of them this one is"
            )
            raise ConfigError(message)
        if not 0 <= process < len(config.addresses):
            message = f"--process {process}: expected 0 to {len(config.addresses) - 1}, as cluster.addresses names them"
            raise ConfigError(message)
        return _run_one(config, flow, Member(process, config.addresses) if len(config.addresses) > 1 else None)
    if process is not None:
        message = (
            f"--process {process}: expected cluster.addresses in {config.path}, found none; give --processes alone"
        )
        raise ConfigError(message)
    if config.processes == 1:
        return _run_one(config, flow, None)
    return _run_cluster(config, words, program)


def _run_cluster(config: Config, words: list[str], program: str) -> int:
    cluster = Cluster()
    within_s = config.decide.stop_within_s + CLUSTER_GRACE_S
    with _logs(config, None), StopSignals(within_s, "weir", cluster.kill) as stops, _backups(config, None):
        addresses = free_addresses(config.processes)
        commands = [
            [sys.executable, "-m", program, *words, "--member", ",".join([str(number), *addresses])]
            for number in range(config.processes)
        ]
        return cluster.run(commands, stops)


def _run_one(config: Config, flow: Flow, member: Member | None) -> int:
    who = "weir" if member is None else f"weir: process {member.number} of {len(member.addresses)}"
    with _logs(config, member):
        try:
            _run_flow(config, flow, member, who)
        except WeirError as error:
            # Told as the watchdog and `deadly` tell theirs, so that every end is a line of one form.
            code = exit_code(error)
            event_log("exits").error(
                "process_ended", extra=fields(error=f"{who}: {error}", exit_code=code, meaning=describe_exit(code))
            )
            return code
    return 0


def _run_flow(config: Config, flow: Flow, member: Member | None, who: str) -> None:
    log = event_log("process")
    with ExitStack() as stack:
        # Before numba and the profile are loaded: a signal meanwhile ends the process in order too.
        stops = stack.enter_context(StopSignals(config.decide.stop_within_s, who))
        from flows.live_metrics import LiveMetrics  # noqa: PLC0415  # what loads long is loaded behind the signals
        from flows.profile import load_profile  # noqa: PLC0415
        from flows.source import Run  # noqa: PLC0415
        from flows.watchdog import Watchdog  # noqa: PLC0415

        profile = load_profile(config.profile)
        run = Run()
        run.stop = stops.requested
        contracts = {topic_of(url): CONTRACTS[name] for name, url in config.streams.items() if name in CONTRACTS}
        metrics = LiveMetrics(run.stats, run.pulse, contracts, now_us)
        stack.callback(end_on_errors(who))
        backups = stack.enter_context(_backups(config, member))
        if backups is not None:
            metrics.backups = lambda: dict(backups.counts)
        number = member.number if member else 0
        port = _serve(stack, config, profile, metrics, number)
        log.info("started", extra=fields(profile=str(config.profile), metrics_port=port, policy=profile.policy.id))
        stack.enter_context(Watchdog(run.pulse, run.stats, config.decide.no_progress_after_s, who))
        flow(LiveProcess(config, profile, run, metrics, member))
        log.info("stopped", extra=fields(decided=sum(run.stats.counters.get("decisions", {}).values())))


def _serve(stack: ExitStack, config: Config, profile: Profile, metrics: LiveMetrics, number: int) -> int | None:
    if not config.metrics_port:
        return None
    from flows.metrics_server import Health, LiveCollector, MetricsServer  # noqa: PLC0415

    collector = LiveCollector(metrics, (profile.features.id, profile.features.hash), now_us)
    health = Health(metrics, config.decide.no_progress_after_s)
    server = MetricsServer(config.metrics_host, config.metrics_port + number, collector, health)
    return stack.enter_context(server).port


def _logs(config: Config, member: Member | None) -> AbstractContextManager[None]:
    stack = ExitStack()
    handler = set_up(config.log_level, config.log_format, member.number if member else 0)
    stack.callback(tear_down, handler)
    return _Entered(stack)


class _Entered(AbstractContextManager[None]):
    """What is to be closed, already begun."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _backups(config: Config, member: Member | None) -> AbstractContextManager[Any]:
    """What backs up meanwhile; of a cluster, by whoever started it, or its first process."""
    state = config.state
    if state.backup_to is None or (member is not None and (member.number or not config.addresses)):
        return nullcontext()
    from flows.backup_runs import BackupRuns  # noqa: PLC0415
    from state.object_store import ObjectStore  # noqa: PLC0415

    ObjectStore(state.backup_to)
    return BackupRuns(state.folder, state.backup_to, state.backup_every_s, state.backup_keep, _tell_backup_failed)


def _tell_backup_failed(error: str, every_s: float) -> None:
    event_log("backups").error("backup_failed", extra=fields(error=error, next_in_s=every_s))
