"""`weir config check`: what weir.toml says, and what it points at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.errors import ConfigError

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
