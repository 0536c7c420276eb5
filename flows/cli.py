"""The `weir` command."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from datetime import timedelta
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from flows.rekey import rekey_command
from schemas.errors import WeirError

app = typer.Typer(
    name="weir",
    help="Weir decides on payments in flight: exact windows, rules, models that learn from late labels.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
policy_app = typer.Typer(help="Rules: check a policy before it is used.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
state_app = typer.Typer(help="State: what is on disk.", no_args_is_help=True)
app.add_typer(state_app, name="state")
state_app.command("rekey")(rekey_command)

REFUSED: Final = 2
"""Exit code when input or configuration is refused; 1 is for what fails later."""


def main() -> None:
    """Entry point: an error that Weir raises on purpose is a sentence, not a traceback."""
    # The engine would print its own stack of native frames above the sentence; WEIR_DEBUG=1 keeps it.
    if os.environ.get("WEIR_DEBUG") != "1":
        os.environ["RUST_BACKTRACE"] = "0"
    try:
        app()
    except WeirError as error:
        typer.secho(f"weir: {error}", err=True, fg="red")
        raise SystemExit(REFUSED) from error


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
    batch: Annotated[int, typer.Option(min=1, help="Events read at once; results do not depend on it.")] = 1000,
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
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
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
    decisions, byte for byte. Stop it with Ctrl-C and run it again with the same --state to go on.
    """
    from flows.profile import load_profile  # noqa: PLC0415  # --help must not wait for numba and River to load
    from flows.replay import ReplayOptions, Run, find_inputs, prepare_folders, run_replay  # noqa: PLC0415
    from schemas.validate import Limits  # noqa: PLC0415
    from state.keys import StateKeys  # noqa: PLC0415
    from state.options import StateOptions  # noqa: PLC0415

    if processes > 1 and state is None:
        message = "--processes: several processes share a --state folder; give one"
        raise typer.BadParameter(message)
    loaded = load_profile(profile)
    process = None
    if member is not None:
        from flows.cluster import end_with_parent  # noqa: PLC0415

        end_with_parent()
        number, *addresses = member.split(",")
        process = (int(number), tuple(addresses))
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
        memory=StateOptions.of_memory(
            memory, block_cache_mib=block_cache, write_buffer_mib=write_buffers, record_cache_mib=record_cache
        ),
        state_keys=StateKeys.from_file(state_keys) if state_keys else StateKeys.from_environment(os.environ),
    )
    if processes > 1 and member is None:
        # Refused here, once, rather than by every process; and the state folder is made by one of them only.
        prepare_folders(loaded, options, find_inputs(events))
        metrics = _replay_cluster(processes, out)
        _finish(bool(metrics["finished"]), profile, events, out, metrics, report=report)
        return
    run = Run()
    undo = run.stop_on_signals()
    started = time.perf_counter()
    try:
        if member is None:
            from flows.progress import ProgressView  # noqa: PLC0415

            with ProgressView(run):
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
    _finish(run.finished, profile, events, out, metrics, report=report)


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


def _replay_cluster(processes: int, out: Path) -> dict[str, Any]:
    """Start this very command once a process, wait for all, and put their figures together."""
    from flows.cluster import free_addresses, run_processes  # noqa: PLC0415
    from flows.state_stats import sum_figures  # noqa: PLC0415
    from flows.stats import merge_rows  # noqa: PLC0415

    for number in range(processes):
        _member_path(out, number).unlink(missing_ok=True)
    addresses = free_addresses(processes)
    commands = [
        [sys.executable, "-m", "flows.cli", *sys.argv[1:], "--member", ",".join([str(number), *addresses])]
        for number in range(processes)
    ]
    code = run_processes(commands)
    if code:
        raise SystemExit(code)
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


@policy_app.command("check")
def policy_check(
    file: Annotated[Path, typer.Argument(help="The policy.toml to check.")],
    features: Annotated[
        Path | None, typer.Option(help="features.toml it is for; default: the one beside the policy.")
    ] = None,
) -> None:
    """Compile every rule against the feature set and tell what is wrong, where, and what was expected."""
    from operators.features import load_feature_set  # noqa: PLC0415
    from operators.policy_check import check_policy  # noqa: PLC0415

    feature_set = load_feature_set(features or file.parent / "features.toml")
    typer.echo(str(check_policy(file, feature_set)))


if __name__ == "__main__":
    main()
