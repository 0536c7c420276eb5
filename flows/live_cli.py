"""`weir config check`: what weir.toml says, and what it points at; and the command line of a live flow."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from flows.live_process import Flow

config_app = typer.Typer(help="weir.toml: check it before a flow is started.", no_args_is_help=True)


@config_app.command("check")
def check_command(
    config: Annotated[Path, typer.Option(help="The weir.toml to check.")],
    ask: Annotated[bool, typer.Option("--broker/--no-broker", help="Ask the brokers about the topics.")] = True,
) -> None:
    """Tell everything that is wrong with a configuration and what it points at, and what could not be checked.

    Exit code 2 when anything is wrong. What a broker that does not answer would have to say counts as unchecked.
    """
    from flows.config import load_config  # noqa: PLC0415  # --help must not wait for it
    from flows.config_check import check_config  # noqa: PLC0415
    from flows.kafka_properties import kafka_properties  # noqa: PLC0415

    loaded = load_config(config)

    def properties(brokers: str) -> dict[str, Any]:
        return kafka_properties(loaded, brokers)

    report = check_config(loaded, properties if ask else None)
    for line in report.lines():
        typer.echo(line)
    if report.problems:
        message = f"{config}: {len(report.problems)} thing{'s' * (len(report.problems) > 1)} wrong, see above"
        raise ConfigError(message)


def add_flow(app: typer.Typer, name: str, what: str, flow: Flow, program: str = "flows.cli") -> None:
    """Give the program a command that runs a live flow by weir.toml.

    Args:
        app: The program.
        name: Of the command: decide or learn.
        what: Its help, one sentence.
        flow: Runs one process; imports what loads long when it is called.
        program: Module by which the processes of a cluster are started.
    """

    @app.command(name, help=f"{what}\n\n{_FLOW_HELP}")
    def run(
        config: Annotated[Path, typer.Option(help="The weir.toml to run by: docs/configuration.md.")],
        processes: Annotated[
            int | None, typer.Option(min=1, max=64, help="Processes on this host, instead of cluster.processes.")
        ] = None,
        process: Annotated[
            int | None, typer.Option(min=0, help="Which of the processes at cluster.addresses this one is.")
        ] = None,
        addresses: Annotated[
            str | None, typer.Option(help="HOST:PORT,... of all processes, instead of cluster.addresses.")
        ] = None,
        member: Annotated[str | None, typer.Option(hidden=True)] = None,
    ) -> None:
        from flows.config import load_config  # noqa: PLC0415  # --help must not wait for it
        from flows.config_check import check_folder  # noqa: PLC0415
        from flows.live_process import run_processes  # noqa: PLC0415

        loaded = load_config(config)
        places = tuple(addresses.split(",")) if addresses is not None else loaded.addresses
        if processes is not None and places:
            message = "--processes: the addresses say how many processes there are; give one or the other"
            raise typer.BadParameter(message)
        loaded = replace(loaded, addresses=places, processes=processes or len(places) or loaded.processes)
        if loaded.processes > loaded.state.shards:
            message = f"--processes {loaded.processes}: expected at most state.shards ({loaded.state.shards})"
            raise typer.BadParameter(message)
        check_folder(loaded)
        raise typer.Exit(run_processes(loaded, sys.argv[1:], flow, process, member, program))


_FLOW_HELP = """Stops in order on SIGTERM or Ctrl-C, at once on a second one, and goes on from its state when started \
again. `weir supervise -- weir ...` starts it again when it fails. Exit codes: docs/runbooks/crash.md."""
