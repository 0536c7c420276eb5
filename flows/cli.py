"""The `weir` command."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.contracts_cli import contracts_app
from flows.dead_letters_cli import dead_letters_app
from flows.exits import exit_code
from flows.learn_live import learn_command
from flows.live_cli import add_flow, config_app
from flows.models_cli import models_app
from flows.rekey import rekey_command
from flows.state_cli import state_app
from flows.topics_cli import topics_app
from schemas.errors import WeirError

if TYPE_CHECKING:
    from flows.cluster import Cluster
    from flows.live_process import LiveProcess
    from flows.stopping import StopSignals

app = typer.Typer(
    name="weir",
    help="Weir decides on payments in flight: exact windows, rules, models that learn from late labels.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
policy_app = typer.Typer(help="Rules: check a policy before it is used.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
app.add_typer(state_app, name="state")
app.add_typer(contracts_app, name="contracts")
app.add_typer(topics_app, name="topics")
app.add_typer(config_app, name="config")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(models_app, name="models")
state_app.command("rekey")(rekey_command)


def _decide_live(process: LiveProcess) -> None:
    from flows.decide_live import decide_live  # noqa: PLC0415  # --help must not wait for it

    decide_live(process)


add_flow(app, "decide", "Decide payments as they come, by weir.toml.", _decide_live)
app.command("learn")(learn_command)


def main() -> None:
    """Entry point: an error that Weir raises on purpose is a sentence, not a traceback."""
    # The engine would print its own stack of native frames above the sentence; WEIR_DEBUG=1 keeps it.
    if os.environ.get("WEIR_DEBUG") != "1":
        os.environ["RUST_BACKTRACE"] = "0"
    try:
        app()
    except WeirError as error:
        typer.secho(f"weir: {error}", err=True, fg="red")
        raise SystemExit(exit_code(error)) from error


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"weir {installed_version('weir')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Weir decides on payments in flight."""


@app.command()
def replay(
    profile: Annotated[Path, typer.Option(help="Folder with features.toml, and policy.toml and learning.toml if any.")],
    events: Annotated[
        Path,
        typer.Option(
            help="Folder with transactions, device_events, identity_events, outcomes (.jsonl .avro .parquet)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for decisions.jsonl, labelled_outcomes.jsonl, report.html, ...")],
    state: Annotated[
        Path | None, typer.Option(help="Folder that lets a stopped or killed replay resume; none: it starts anew.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Events read at once; results do not depend on it.")] = 4000,
    epoch: Annotated[
        float, typer.Option(min=0.05, help="Seconds between commits with --state; results do not depend on it.")
    ] = 1.0,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes; more than one needs --state.")] = 1,
    shards: Annotated[
        int, typer.Option(min=1, max=32, help="Parts of the key space; fixed for the life of a --state folder.")
    ] = 8,
    pan_keys: Annotated[
        Path | None, typer.Option(help="Keys that tokenise card numbers; default: WEIR_PAN_KEYS_FILE or WEIR_PAN_KEYS.")
    ] = None,
    stop_within: Annotated[
        float, typer.Option(min=0.1, help="Seconds to end in order after SIGTERM or Ctrl-C; then it ends by force.")
    ] = 10.0,
    no_progress_after: Annotated[
        float, typer.Option(min=0, help="Seconds without progress that end a process; longer than any batch; 0: never.")
    ] = 30.0,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    rate: Annotated[
        float | None, typer.Option(min=1, hidden=True, help="Events a second at the most: a steady load.")
    ] = None,
    backup_to: Annotated[
        str | None, typer.Option(help="Back the --state folder up to file:///FOLDER or s3://BUCKET/PREFIX meanwhile.")
    ] = None,
    backup_every: Annotated[float, typer.Option(min=1, help="Seconds between backups.")] = 300.0,
    backup_keep: Annotated[int, typer.Option(min=1, help="Backups of this folder kept there; older ones go.")] = 24,
    memory: Annotated[int, typer.Option(min=8, help="MiB for the state's caches and buffers, a process.")] = 256,
    block_cache: Annotated[
        int | None, typer.Option(min=1, help="MiB of it for file blocks; default: a quarter.")
    ] = None,
    write_buffers: Annotated[int | None, typer.Option(min=1, help="MiB of it for writes; default: a quarter.")] = None,
    record_cache: Annotated[int | None, typer.Option(min=0, help="MiB of it for hot records; default: half.")] = None,
    state_keys: Annotated[
        Path | None, typer.Option(help="Keys that encrypt --state; default: WEIR_STATE_KEYS_FILE or WEIR_STATE_KEYS.")
    ] = None,
    member: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Decide recorded payments: files in, decisions out; one process, no server.

    Events are merged in event-time order; labels are learned as they would have come. The same events give the same
    decisions, byte for byte. Stop it with Ctrl-C and run it again with the same --state to go on; a second Ctrl-C ends
    it at once.
    """
    from flows.cluster import CLUSTER_GRACE_S, Cluster, end_with_parent  # noqa: PLC0415
    from flows.exits import end_on_errors  # noqa: PLC0415
    from flows.stopping import StopSignals  # noqa: PLC0415

    if processes > 1 and state is None:
        message = "--processes: several processes share a --state folder; give one"
        raise typer.BadParameter(message)
    backups = _backups(state, backup_to, backup_every, backup_keep) if member is None else nullcontext()
    cluster = Cluster() if processes > 1 and member is None else None
    process = None
    who = "weir"
    if member is not None:
        end_with_parent()
        number, *addresses = member.split(",")
        process = (int(number), tuple(addresses))
        who = f"weir: process {number} of {len(addresses)}"
    # Before numba and the profile are loaded: a signal meanwhile ends the run in order too.
    within_s = stop_within + (CLUSTER_GRACE_S if cluster else 0)
    with StopSignals(within_s, who, cluster.kill if cluster else None) as stops:
        from flows.profile import load_profile  # noqa: PLC0415  # --help must not wait for numba and River to load
        from flows.replay import ReplayOptions, find_inputs, prepare_folders, run_replay  # noqa: PLC0415
        from flows.source import Run  # noqa: PLC0415
        from flows.watchdog import Watchdog  # noqa: PLC0415
        from schemas.validate import Limits  # noqa: PLC0415
        from state.keys import StateKeys  # noqa: PLC0415
        from state.options import StateOptions  # noqa: PLC0415

        loaded = load_profile(profile)
        options = ReplayOptions(
            events=events,
            out=out,
            state=state,
            batch=batch,
            epoch=timedelta(seconds=epoch),
            limits=Limits(),
            tokeniser=_tokeniser(pan_keys),
            now_us=time.time_ns() // 1000,
            shards=shards,
            process=process,
            rate=rate,
            memory=StateOptions.of_memory(
                memory, block_cache_mib=block_cache, write_buffer_mib=write_buffers, record_cache_mib=record_cache
            ),
            state_keys=StateKeys.from_file(state_keys) if state_keys else StateKeys.from_environment(os.environ),
        )
        if cluster is not None:
            if processes > shards:
                message = f"--processes {processes}: expected at most --shards ({shards}); a shard has one owner"
                raise typer.BadParameter(message)
            # Refused here, once, rather than by every process; and the state folder is made by one of them only.
            prepare_folders(loaded, options, find_inputs(events))
            with backups:
                metrics = _replay_cluster(cluster, processes, out, stops)
        else:
            run = Run()
            run.stop = stops.requested
            started = time.perf_counter()
            undo = end_on_errors(who)
            try:
                with Watchdog(run.pulse, run.stats, no_progress_after, who):
                    if member is None:
                        from flows.progress import ProgressView  # noqa: PLC0415

                        with backups, ProgressView(run):
                            run_replay(loaded, options, run)
                    else:
                        run_replay(loaded, options, run)
            finally:
                undo()
            metrics = _metrics(run.stats.as_dict(), time.perf_counter() - started)
            metrics |= {"state": run.state, "finished": run.finished}
    if member is not None:
        _member_path(out, process[0] if process else 0).write_text(json.dumps(metrics))
        raise typer.Exit
    metrics |= _backup_counts(backups)
    if metrics["finished"] and loaded.learning.model is not None:
        from flows.evaluation import evaluate  # noqa: PLC0415

        metrics["evaluation"] = evaluate(out, loaded.learning.evaluation)
    _finish(bool(metrics["finished"]), profile, events, out, metrics, report=report)


def _backups(state: Path | None, url: str | None, every_s: float, keep: int) -> AbstractContextManager[Any]:
    """What backs up meanwhile; nothing without a URL. The URL is looked at here, before anything starts."""
    if url is None:
        return nullcontext()
    if state is None:
        message = "--backup-to: it backs up a --state folder; give one"
        raise typer.BadParameter(message)
    from flows.backup_runs import BackupRuns  # noqa: PLC0415
    from state.object_store import ObjectStore  # noqa: PLC0415

    ObjectStore(url)
    return BackupRuns(state, url, every_s, keep)


def _backup_counts(backups: Any) -> dict[str, Any]:
    counts = getattr(backups, "counts", None)
    return {} if counts is None else {"backups": counts}


def _tokeniser(pan_keys: Path | None) -> Any:
    from schemas.tokens import TokenKeys  # noqa: PLC0415

    return TokenKeys.from_file(pan_keys) if pan_keys else TokenKeys.from_environment(os.environ)


def _metrics(stats: dict[str, Any], wall_s: float) -> dict[str, Any]:
    """What this run measured; CPU time is user and system of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime
    decided = sum(stats["counters"].get("decisions", {}).values())
    return {
        "payments": decided,
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
        "payments_per_s": round(decided / wall_s, 1) if wall_s else 0.0,
        "cpu_us_per_payment": round(cpu_s / decided * 1e6, 2) if decided else None,
        "peak_rss_mib": round(usage.ru_maxrss / 1024, 1),
        **stats,
    }


def _member_path(out: Path, number: int) -> Path:
    return out / f".metrics-{number}.json"


def _replay_cluster(cluster: Cluster, processes: int, out: Path, stops: StopSignals) -> dict[str, Any]:
    """Start this very command once a process, wait for all, and put their figures together."""
    from flows.cluster import free_addresses  # noqa: PLC0415
    from flows.state_stats import sum_figures  # noqa: PLC0415
    from flows.stats import merge_rows  # noqa: PLC0415

    for number in range(processes):
        _member_path(out, number).unlink(missing_ok=True)
    addresses = free_addresses(processes)
    commands = [
        [sys.executable, "-m", "flows.cli", *sys.argv[1:], "--member", ",".join([str(number), *addresses])]
        for number in range(processes)
    ]
    code = cluster.run(commands, stops)
    if code:
        raise SystemExit(code)
    if stops.requested.is_set() and not all(_member_path(out, number).is_file() for number in range(processes)):
        return {"finished": False}  # told to stop before all had begun
    members = [json.loads(_member_path(out, number).read_text()) for number in range(processes)]
    for number in range(processes):
        _member_path(out, number).unlink()
    wall_s = max(member["wall_s"] for member in members)
    payments = sum(member["payments"] for member in members)
    cpu_s = sum(member["cpu_s"] for member in members)
    return {
        "payments": payments,
        "wall_s": wall_s,
        "cpu_s": round(cpu_s, 3),
        "payments_per_s": round(payments / wall_s, 1) if wall_s else 0.0,
        "cpu_us_per_payment": round(cpu_s / payments * 1e6, 2) if payments else None,
        "peak_rss_mib": max(member["peak_rss_mib"] for member in members),
        "processes": processes,
        **merge_rows(members),
        "state": sum_figures([member["state"] for member in members]),
        "finished": any(member["finished"] for member in members),
    }


def _finish(finished: bool, profile: Path, events: Path, out: Path, metrics: dict[str, Any], *, report: bool) -> None:
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    if not finished:
        typer.echo("weir: stopped in order; run the same command with the same --state to go on", err=True)
        return
    if report:
        from flows.report import write_report  # noqa: PLC0415

        write_report(out, events, metrics, out / "report.html", profile=profile.name)
    typer.echo(
        f"weir: {metrics['payments']:,} payments decided in {metrics['wall_s']:,.1f} s "
        f"({metrics['payments_per_s']:,.0f} a second); {out / 'report.html' if report else out}",
        err=True,
    )


@app.command(context_settings={"allow_interspersed_args": False})
def supervise(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="What to run; a first word `weir` means this program.")
    ],
    first_pause: Annotated[float, typer.Option(min=0, help="Seconds before the first restart; doubles each time.")] = 1,
    longest_pause: Annotated[float, typer.Option(min=0, help="Longest pause in seconds.")] = 60,
    most_restarts: Annotated[int, typer.Option(min=0, help="Restarts within the window before it gives up.")] = 10,
    window: Annotated[float, typer.Option(min=1, help="Length of that window in seconds.")] = 600,
    stopped_after: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a process stopped by a signal is taken for dead.")
    ] = 30,
    stop_within: Annotated[
        float, typer.Option(min=0.1, help="Seconds for COMMAND to end after SIGTERM or Ctrl-C; more than its own.")
    ] = 20,
) -> None:
    """Run a command, all its processes as one, and start it again when it fails.

    `weir supervise -- weir replay --processes 4 ...`. When one process dies or hangs, all are killed, their deaths
    waited for, and the command is started again after a pause. Not after it ended well, was told to stop (a second
    signal ends everything at once), or refused its configuration (exit code 2). Exit code 78: too many restarts.
    """
    from flows.stopping import StopSignals  # noqa: PLC0415
    from flows.supervise import RestartPolicy, Supervisor  # noqa: PLC0415

    words = [sys.executable, "-m", "flows.cli", *command[1:]] if command[0] == "weir" else command
    supervisor = Supervisor(words, RestartPolicy(first_pause, longest_pause, most_restarts, window, stopped_after))
    with StopSignals(stop_within, "weir supervise", supervisor.kill_at_once) as stops:
        code = supervisor.run(stops)
    raise typer.Exit(code)


@policy_app.command("check")
def policy_check(
    file: Annotated[Path, typer.Argument(help="The policy.toml to check, or the profile that holds it.")],
    features: Annotated[
        Path | None, typer.Option(help="features.toml it is for; default: the one beside the policy.")
    ] = None,
) -> None:
    """Compile every rule against the feature set and tell what is wrong, where, and what was expected."""
    from operators.features import load_feature_set  # noqa: PLC0415
    from operators.policy_check import check_policy  # noqa: PLC0415

    feature_set = load_feature_set(features or (file if file.is_dir() else file.parent) / "features.toml")
    typer.echo(str(check_policy(file, feature_set)))


if __name__ == "__main__":
    main()
