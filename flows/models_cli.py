"""`weir models`: who serves, what is known of each model, and who is to serve from now on."""

from __future__ import annotations

import getpass
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from flows.releases import Releasing
    from operators.releases import Register, Release

models_app = typer.Typer(help="Released models: who serves, and who is to serve from now on.", no_args_is_help=True)

_Config = Annotated[Path, typer.Option(help="The weir.toml whose streams.models and [models] say where they are.")]
_Reason = Annotated[str, typer.Option(help="Why; it stands in the release and in the log for good.")]
_Author = Annotated[str | None, typer.Option(help="Who decides this; default: the user who runs the command.")]


@models_app.command("list")
def list_command(config: _Config) -> None:
    """Who serves, and all releases that models.v1 holds, the latest first."""
    told, register = _known(config)
    standing = register.standing()
    for role, release in (
        ("champion", standing.champion),
        ("canary", standing.canary),
        ("before the champion", standing.previous),
        *(("challenger", one) for one in standing.challengers),
    ):
        if release is not None:
            typer.echo(f"{role:20s} {release.model_id} {release.version}  {release.sha256[:12]}")
    if standing.champion is None:
        typer.echo(f"champion             none was released on {told.stream.topic}: payments have no score")
    typer.echo(f"learner              {'frozen: it moves nobody' if standing.frozen else 'may move models'}")
    from operators.releases import describe_release  # noqa: PLC0415  # --help must not wait for it

    for release in register.releases():
        typer.echo(f"  {describe_release(release)}" + (f": {release.reason}" if release.reason else ""))


@models_app.command("card")
def card_command(
    model: Annotated[str, typer.Argument(help="Id of the model.")],
    config: _Config,
    form: Annotated[str, typer.Option(help="md or html.")] = "md",
    out: Annotated[Path | None, typer.Option(help="File to write; default: the terminal.")] = None,
) -> None:
    """The card of a model's latest release: data, quality, segments, what it looks at, how to undo it."""
    if form not in ("md", "html"):
        message = f"--form {form!r}: expected md or html"
        raise typer.BadParameter(message)
    told, register = _known(config)
    release = _of(register, model)
    card = told.artefacts.card(release.sha256, form)
    if card is None:
        message = f"{model}: no card was written of {release.sha256[:12]}; the learner writes one beside each release"
        raise ConfigError(message)
    if out is None:
        typer.echo(card)
    else:
        out.write_text(card, encoding="utf-8")


@models_app.command("promote")
def promote_command(
    model: Annotated[str, typer.Argument(help="Id of the model.")],
    config: _Config,
    reason: _Reason,
    stage: Annotated[str, typer.Option(help="champion, canary, challenger or retired.")] = "champion",
    author: _Author = None,
) -> None:
    """Let a model's latest artefact serve in a stage from now on."""
    if stage not in ("champion", "canary", "challenger", "retired"):
        message = f"--stage {stage!r}: expected champion, canary, challenger or retired"
        raise typer.BadParameter(message)
    told, register = _known(config)
    release = _of(register, model)
    champion = register.standing().champion
    if stage != "champion" and champion is not None and champion.model_id == model:
        message = f"{model} is the champion; promote another one first, which takes its place"
        raise ConfigError(message)
    _announce(told, register, release, stage, reason, author)  # type: ignore[arg-type]  # checked above


@models_app.command("rollback")
def rollback_command(
    config: _Config,
    reason: _Reason,
    to: Annotated[str | None, typer.Option(help="sha256 of the artefact, or its beginning; default: the last.")] = None,
    author: _Author = None,
) -> None:
    """Let an artefact that was champion before serve again, and freeze the learner, which would overrule it.

    Without --to it is the last champion whose artefact is another than the present one's.
    """
    from flows.releases import history  # noqa: PLC0415  # --help must not wait for it

    told, register = _known(config)
    champion = register.standing().champion
    present = champion.sha256 if champion is not None else ""
    crowned = [one for one in history(told) if one.stage == "champion" and one.sha256 != present]
    fitting = [one for one in crowned if to is None or one.sha256.startswith(to)]
    if not fitting:
        what = "no champion before the present one" if to is None else f"no earlier champion whose sha256 begins {to!r}"
        message = f"{told.artefacts.url} holds {what}; promote another model instead (weir models list)"
        raise ConfigError(message)
    _announce(told, register, fitting[-1], "champion", reason, author)
    _set_frozen(config, reason, author, frozen=True)


@models_app.command("freeze")
def freeze_command(config: _Config, reason: _Reason, author: _Author = None) -> None:
    """Stop the learner from moving models by itself; it goes on learning and releasing."""
    _set_frozen(config, reason, author, frozen=True)


@models_app.command("thaw")
def thaw_command(config: _Config, reason: _Reason, author: _Author = None) -> None:
    """Let the learner move models again."""
    _set_frozen(config, reason, author, frozen=False)


def _set_frozen(config: Path, reason: str, author: str | None, *, frozen: bool) -> None:
    from flows.releases import Announcer  # noqa: PLC0415
    from operators.releases import freeze_record  # noqa: PLC0415

    told, register = _known(config)
    record = freeze_record(
        frozen=frozen, author=author or getpass.getuser(), reason=reason, created_at_us=_now_us(register)
    )
    Announcer(told).announce(record)
    typer.echo(f"the learner {'moves nobody until: weir models thaw' if frozen else 'may move models again'}")


def _announce(
    told: Releasing,
    register: Register,
    release: Release,
    stage: Literal["champion", "canary", "challenger", "retired"],
    reason: str,
    author: str | None,
) -> None:
    from flows.releases import Announcer  # noqa: PLC0415
    from operators.releases import describe_release  # noqa: PLC0415

    if stage != "retired":
        told.artefacts.get(release.sha256)  # refused here, rather than by every process that is to serve it
    made = replace(
        release,
        stage=stage,
        reason=reason,
        author=author or getpass.getuser(),
        created_at_us=_now_us(register),
        signature="",
    )
    typer.echo(f"announced: {describe_release(Announcer(told).announce(made))}")


def _known(config: Path) -> tuple[Releasing, Register]:
    from flows.config import load_config  # noqa: PLC0415  # --help must not wait for it
    from flows.releases import read_log  # noqa: PLC0415
    from flows.releasing import releasing  # noqa: PLC0415

    told = releasing(load_config(config))
    if told is None:
        message = f"{config}: streams.models is missing; expected the topic of model releases"
        raise ConfigError(message)
    log = read_log(told)
    for reason, text in log.refused:
        typer.echo(f"refused: {reason}: {text}", err=True)
    return told, log.register


def _of(register: Register, model: str) -> Release:
    release = register.latest(model)
    if release is None:
        known = sorted({one.model_id for one in register.releases()})
        message = f"model {model!r}: never released; expected one of {', '.join(known) or 'none at all'}"
        raise ConfigError(message)
    return release


def _now_us(register: Register) -> int:
    """Later than all that was released, whatever the clocks of their makers said."""
    return max(time.time_ns() // 1_000, register.last_us() + 1)
