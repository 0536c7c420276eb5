"""`weir models`: who is champion, what a release learned, and the changes a person may make."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from schemas.errors import ConfigError, StreamError

if TYPE_CHECKING:
    from flows.config import Config
    from flows.releases import ReleaseSource
    from operators.releases import ReleaseLog
    from state.artefacts import ArtefactStore

models_app = typer.Typer(help="Models: list, read the card of, promote, roll back, freeze.", no_args_is_help=True)

_FLUSH_S: Final = 30.0
_Config = Annotated[Path, typer.Option(help="The weir.toml that names streams.models and [models].")]
_Author = Annotated[str, typer.Option(help="Who makes the change; it is published with it.")]
_Reason = Annotated[str, typer.Option(help="Why; it is published with it.")]
_Model = Annotated[str, typer.Argument(help="sha256 of the artefact, or its first 8 or more digits.")]


@dataclass(frozen=True, slots=True)
class _Desk:
    """What the commands work with."""

    config: Config
    source: ReleaseSource
    log: ReleaseLog

    @property
    def store(self) -> ArtefactStore:
        return self.source.store


@contextmanager
def _desk(config: Path) -> Iterator[_Desk]:
    """Read models.v1 to its end."""
    from flows.config import load_config  # noqa: PLC0415  # --help must not wait for it
    from flows.decide_live import release_source  # noqa: PLC0415
    from flows.releases import ReleaseReader  # noqa: PLC0415
    from flows.source import Run  # noqa: PLC0415
    from operators.releases import ReleaseLog  # noqa: PLC0415

    loaded = load_config(config)
    source = release_source(loaded)
    log = ReleaseLog()

    def refused(reason: str, told: str) -> None:
        sys.stderr.write(f"weir: not believed ({reason}): {told}\n")

    reader = ReleaseReader(source, Run(), refused)
    try:
        for release in reader.to_end():
            log.apply(release)
        yield _Desk(loaded, source, log)
    finally:
        reader.close()


@models_app.command("list")
def list_command(config: _Config) -> None:
    """Every release in the store, newest first, and which of them decides."""
    from operators.releases import CHALLENGER  # noqa: PLC0415  # --help must not wait for it
    from schemas.times import format_rfc3339_us  # noqa: PLC0415

    with _desk(config) as desk:
        champion = desk.log.champion
        previous = None if champion is None else champion.record.get("previous_sha256")
        known = {record["sha256"]: record for record in _stored(desk.store)}
        for release in desk.log.latest.values():
            known.setdefault(release.sha256, dict(release.record))
        log = desk.log
        at = {
            "canary": set() if log.canary is None else {log.canary.sha256},
            "challenger": {one.sha256 for one in log.challengers.values()},
        }
        newer = None if champion is None else log.latest.get((champion.model_id, CHALLENGER))
        if newer is not None and champion is not None and newer.offset > champion.offset:
            at["waits for promote"] = {newer.sha256}
        for record in sorted(known.values(), key=lambda one: -int(one["created_at"])):
            sha256 = record["sha256"]
            marks = [stage for stage, found in at.items() if sha256 in found]
            if champion is not None and sha256 == champion.sha256:
                marks.insert(0, "champion, frozen" if desk.log.frozen else "champion")
            elif sha256 == previous:
                marks.insert(0, "champion before")
            figures = record["metrics"]
            area = figures.get("prequential_auc")
            told = "" if area is None else f"  AUC {area:.4f}"
            made = format_rfc3339_us(int(record["created_at"]))
            typer.echo(f"{sha256[:12]}  {made}  {record['model_id']} {record['version']}{told}  {', '.join(marks)}")
        if not known:
            typer.echo("no release yet: weir learn makes one when its model is trained")
        if desk.log.held_up:
            typer.echo(
                f"{desk.log.held_up} release(s) held up: a person has frozen the champion (weir models unfreeze)"
            )


@models_app.command()
def card(
    model: Annotated[str | None, typer.Argument(help="sha256 or its first digits; default: the champion.")] = None,
    *,
    config: _Config,
    out: Annotated[Path | None, typer.Option(help="Folder to write the card to, as .md and .html.")] = None,
) -> None:
    """The model card: print it, or write it as markdown and HTML."""
    with _desk(config) as desk:
        if model is None:
            if desk.log.champion is None:
                message = "there is no champion yet; expected the sha256 of a release (weir models list)"
                raise ConfigError(message)
            sha256 = desk.log.champion.sha256
        else:
            sha256 = _found(desk, model)["sha256"]
        texts = {kind: desk.store.text(f"cards/{sha256}.{kind}") for kind in ("md", "html")}
        if texts["md"] is None:
            message = f"model {sha256[:12]}: {desk.store.url} holds no card of it; the learner writes one a release"
            raise ConfigError(message)
        if out is None:
            typer.echo(texts["md"])
            return
        out.mkdir(parents=True, exist_ok=True)
        for kind, text in texts.items():
            path = out / f"{sha256[:12]}.{kind}"
            path.write_text(text or "", encoding="utf-8")
            typer.echo(str(path))


@models_app.command()
def promote(
    model: _Model,
    config: _Config,
    author: _Author,
    reason: _Reason,
    freeze: Annotated[bool, typer.Option(help="Let nothing but a person change the champion from now on.")] = False,
) -> None:
    """Make a release champion."""
    with _desk(config) as desk:
        record = _found(desk, model)
        _fits(desk, record)
        _announce(desk, record, "promote", author, reason, frozen=freeze)


@models_app.command()
def rollback(
    config: _Config,
    author: _Author,
    reason: _Reason,
    to: Annotated[str | None, typer.Option(help="sha256 to go back to; default: the champion before.")] = None,
    freeze: Annotated[
        bool, typer.Option(help="Let nothing but a person change the champion: else the next release would.")
    ] = True,
) -> None:
    """Go back to the champion before, and freeze it until a person says otherwise."""
    with _desk(config) as desk:
        champion = desk.log.champion
        if champion is None:
            message = "there is no champion to roll back from (weir models list)"
            raise ConfigError(message)
        sha256 = to or champion.record.get("previous_sha256")
        if not sha256:
            message = f"{champion.name}: it names no champion before it; give one by --to (weir models list)"
            raise ConfigError(message)
        record = _found(desk, sha256)
        _fits(desk, record)
        _announce(desk, record, "rollback", author, reason, frozen=freeze)


@models_app.command()
def freeze(config: _Config, author: _Author, reason: _Reason) -> None:
    """Let nothing but a person change the champion or the canary: no release of a champion, no move on evidence."""
    _again(config, "freeze", author, reason, frozen=True)


@models_app.command()
def unfreeze(config: _Config, author: _Author, reason: _Reason) -> None:
    """Let the learner and the declared criteria change the champion again."""
    _again(config, "unfreeze", author, reason, frozen=False)


@models_app.command()
def canary(model: _Model, config: _Config, author: _Author, reason: _Reason) -> None:
    """Let a release decide the canary's share of the accounts, in the place of the canary before."""
    from flows.profile import load_profile  # noqa: PLC0415  # --help must not wait for it
    from operators.releases import CANARY  # noqa: PLC0415

    with _desk(config) as desk:
        record = _found(desk, model)
        _fits(desk, record)
        champion = desk.log.champion
        if champion is None or champion.model_id == record["model_id"]:
            message = f"{record['model_id']}: expected a rival of the champion, of another id (weir models list)"
            raise ConfigError(message)
        if load_profile(desk.config.profile).learning.loop.canary is None:
            message = f"{desk.config.profile}/learning.toml declares no [canary]; expected its share and salt"
            raise ConfigError(message)
        _announce(desk, record, "canary", author, reason, stage=CANARY)


@models_app.command()
def withdraw(config: _Config, author: _Author, reason: _Reason) -> None:
    """Send the canary back to the shadow; the champion decides all accounts."""
    from operators.releases import CHALLENGER  # noqa: PLC0415  # --help must not wait for it

    with _desk(config) as desk:
        if desk.log.canary is None:
            message = "there is no canary (weir models list)"
            raise ConfigError(message)
        # Not the record as heard, which holds an earlier change, but the release as the store has it.
        record = _found(desk, desk.log.canary.sha256)
        _announce(desk, record, "withdraw", author, reason, stage=CHALLENGER)


def _again(config: Path, change: str, author: str, reason: str, *, frozen: bool) -> None:
    with _desk(config) as desk:
        champion = desk.log.champion
        if champion is None:
            message = f"there is no champion to {change} (weir models list)"
            raise ConfigError(message)
        if desk.log.frozen == frozen:
            message = f"{champion.name} is {'frozen' if frozen else 'not frozen'} already; nothing was changed"
            raise ConfigError(message)
        _announce(desk, dict(champion.record), change, author, reason, frozen=frozen)


def _stored(store: ArtefactStore) -> list[dict[str, Any]]:
    """Records beside the artefacts; each is checked before it is announced."""
    from operators.releases import CONTRACT, checked  # noqa: PLC0415  # --help must not wait for it
    from schemas.codec import decode_json_mapping  # noqa: PLC0415
    from schemas.errors import ContractError  # noqa: PLC0415

    found = []
    for name in store.names("releases"):
        text = store.text(name)
        if text is None:
            continue
        try:
            found.append(checked(decode_json_mapping(CONTRACT, text.encode())))
        except ContractError as error:
            sys.stderr.write(f"weir: {store.url}/{name}: {error}\n")
    return found


def _found(desk: _Desk, start: str) -> dict[str, Any]:
    """The one release whose hash begins so, its signature checked."""
    if len(start) < 8:
        message = f"{start!r}: expected at least 8 digits of a sha256 (weir models list)"
        raise ConfigError(message)
    known = {record["sha256"]: record for record in _stored(desk.store)}
    for release in desk.log.latest.values():
        known.setdefault(release.sha256, dict(release.record))
    fitting = [record for sha256, record in known.items() if sha256.startswith(start)]
    if len(fitting) != 1:
        message = f"{start!r}: expected the start of one release's sha256, found {len(fitting)} (weir models list)"
        raise ConfigError(message)
    fault = desk.source.keys.fault(fitting[0])
    if fault is not None:
        message = f"release {fitting[0]['sha256'][:12]} in {desk.store.url}: {fault}; it cannot be announced"
        raise ConfigError(message)
    return fitting[0]


def _fits(desk: _Desk, record: dict[str, Any]) -> None:
    """Whether the release could decide: artefact intact, feature set the profile's, model declared there."""
    from flows.profile import load_profile  # noqa: PLC0415  # --help must not wait for it

    desk.store.get(record["sha256"])
    profile = load_profile(desk.config.profile)
    features = profile.features
    if record["model_id"] not in profile.restores():
        message = (
            f"release {record['sha256'][:12]} is of model {record['model_id']!r}; {desk.config.profile}/learning.toml "
            f"declares {', '.join(profile.restores()) or 'none'}: decide would refuse it"
        )
        raise ConfigError(message)
    if features.hash != record["feature_set_hash"]:
        message = (
            f"release {record['sha256'][:12]} was trained on feature set {record['feature_set_hash'][:12]}, "
            f"{desk.config.profile} has {features.hash[:12]}: decide would refuse it; promote one of this feature set"
        )
        raise ConfigError(message)


def _announce(
    desk: _Desk,
    record: dict[str, Any],
    change: str,
    author: str,
    reason: str,
    *,
    frozen: bool | None = None,
    stage: str = "champion",
) -> None:
    from confluent_kafka import Producer  # noqa: PLC0415  # --help must not wait for it

    from flows.decide_live import wire_of  # noqa: PLC0415
    from operators.releases import CHAMPION, CONTRACT, HUMAN, follows, message_key  # noqa: PLC0415
    from schemas.signing import SIGNATURE  # noqa: PLC0415

    for what, text in (("--author", author), ("--reason", reason)):
        if not text.strip():
            message = f"{what}: expected some words; they are published with the change"
            raise ConfigError(message)
    told = {
        **record,
        **follows(desk.log.champion if stage == CHAMPION else None, record["sha256"]),
        "stage": stage,
        "origin": HUMAN,
        "change": change,
        "author": author,
        "reason": reason,
        "frozen": frozen,
    }
    told[SIGNATURE] = desk.source.keys.sign(told)
    _, encoder = wire_of(desk.config.wire, {}, (CONTRACT,))
    value, headers = encoder(CONTRACT, told)
    stream = desk.source.stream
    producer = Producer(
        {**desk.source.kafka, "bootstrap.servers": stream.bootstrap, "enable.idempotence": True, "acks": "all"}
    )
    failed: list[Any] = []
    headers_told: Any = headers
    producer.produce(
        stream.topic,
        value,
        message_key(told),
        headers=headers_told,
        on_delivery=lambda error, _: failed.append(error) if error is not None else None,
    )
    if producer.flush(_FLUSH_S) or failed:
        why = failed[0].str() if failed else f"no broker answered within {_FLUSH_S:.0f} s"
        message = f"{stream.topic}: the change was not published: {why}; run it again"
        raise StreamError(message)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    typer.echo(
        f"{at} {change}: {stage} is {told['model_id']} {told['version']} ({told['sha256'][:12]})"
        f"{', frozen' if frozen else ''}"
    )
