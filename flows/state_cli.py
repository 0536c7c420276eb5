"""`weir state`: back up, restore, verify, look into, and forget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.errors import WeirError

state_app = typer.Typer(help="State: back up, restore, verify, inspect, get, forget.", no_args_is_help=True)

_State = Annotated[Path, typer.Option(help="Folder that `weir replay --state` or `weir decide` made.")]
_From = Annotated[str, typer.Option("--from", help="file:///FOLDER or s3://BUCKET/PREFIX that was backed up to.")]
_Backup = Annotated[str | None, typer.Option(help="Id of the backup; default: the newest.")]
_Profile = Annotated[Path, typer.Option(help="The state's profile; it says what the records mean.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@state_app.command()
def backup(
    state: _State,
    to: Annotated[str, typer.Option(help="file:///FOLDER or s3://BUCKET/PREFIX.")],
    keep: Annotated[int | None, typer.Option(min=1, help="Backups of this folder to keep there; default: all.")] = None,
) -> None:
    """Back up a state folder, also while a flow runs on it; files stored by an earlier backup are not copied again."""
    from flows.backup import make_backup  # noqa: PLC0415  # --help must not wait for libraries

    made = make_backup(state, to, keep)
    manifest = made.manifest
    typer.echo(
        f"backup {manifest.id}: epoch {manifest.facts['epoch']}, {len(manifest.files)} files, {manifest.size:,} bytes; "
        f"copied {made.copied_files} files, {made.copied_bytes:,} bytes"
    )


@state_app.command()
def backups(source: _From, as_json: _Json = False) -> None:
    """List the backups at a URL, oldest first."""
    from state.backup import backup_ids, load_manifest  # noqa: PLC0415
    from state.object_store import ObjectStore  # noqa: PLC0415

    target = ObjectStore(source)
    rows: list[dict[str, Any]] = []
    for name in backup_ids(target):
        try:
            one = load_manifest(target, name)
            rows.append({"id": name, "epoch": one.facts["epoch"], "files": len(one.files), "bytes": one.size})
        except WeirError as error:
            rows.append({"id": name, "error": str(error)})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        told = row.get("error") or f"epoch {row['epoch']}, {row['files']} files, {row['bytes']:,} bytes"
        typer.echo(f"{row['id']}  {told}")


@state_app.command()
def restore(source: _From, state: _State, backup: _Backup = None) -> None:
    """Put a backup back into an empty folder; every file's checksum is compared, and that the parts fit together."""
    from flows.backup import restore as restore_state  # noqa: PLC0415

    manifest, known = restore_state(source, state, backup)
    typer.echo(
        f"restored {manifest.id} to {state}: {len(manifest.files)} files, {manifest.size:,} bytes; the flow resumes at "
        f"epoch {known.epoch}"
    )
    for slot, offset in sorted(known.offsets.items()):
        typer.echo(f"  {slot}: the output must hold at least its first {offset:,} bytes; what is behind is adopted")


@state_app.command()
def verify(
    state: Annotated[Path | None, typer.Option(help="State folder to read and check.")] = None,
    source: Annotated[str | None, typer.Option("--from", help="URL of backups; reads the newest.")] = None,
    backup: _Backup = None,
) -> None:
    """Read everything of a state folder, or of a backup, and compare all checksums and versions."""
    from flows.backup import verify_backup, verify_state  # noqa: PLC0415

    if (state is None) == (source is None):
        message = "give either --state or --from"
        raise typer.BadParameter(message)
    if state is not None:
        found = verify_state(state)
        typer.echo(f"{state}: {found['shards']} shards, {found['records']:,} records whole; epoch {found['epoch']}")
    if source is not None:
        manifest = verify_backup(source, backup)
        typer.echo(f"{manifest.id}: {len(manifest.files)} files, {manifest.size:,} bytes whole")


@state_app.command()
def inspect(state: _State, as_json: _Json = False) -> None:
    """Sizes, counts, versions kept and the oldest record, by step and shard; reads every record."""
    from flows.inspect_state import inspect as inspect_state  # noqa: PLC0415

    told = inspect_state(state)
    if as_json:
        typer.echo(json.dumps(told, indent=1))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("shard", "step", "records", "bytes", "versions", "before-images", "oldest record"):
        table.add_column(name, justify="right" if name in {"bytes", "before-images"} else "left")
    for shard in told["shards"]:
        for step in shard["steps"]:
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(step["records"].items()))
            table.add_row(
                shard["shard"],
                step["step"],
                kinds,
                f"{step['record_bytes']:,}",
                f"{step['oldest_version']}..{step['version']}",
                f"{step['before_images']:,}",
                (step["oldest_record"] or "")[:19],
            )
    console = Console()
    # A pipe has no width: let no line be folded there.
    (console if console.is_terminal else Console(width=220)).print(table, highlight=False)
    typer.echo(
        f"resumes at epoch {told['epoch']}; {told['disk_bytes']:,} bytes on disk in {len(told['shards'])} shards"
    )


@state_app.command()
def get(
    state: _State,
    profile: _Profile,
    entity: Annotated[str, typer.Option(help="An entity of the profile: card, account, ...")],
    key: Annotated[list[str], typer.Option(help="Its key; of a pair, once for each field. A card's is its token.")],
    related: Annotated[bool, typer.Option(help="Also what other steps hold of it; reads them all.")] = False,
) -> None:
    """Print what is kept of one entity, as JSON."""
    from flows.inspect_state import get_entity  # noqa: PLC0415

    told = get_entity(state, profile, entity, key, related=related)
    typer.echo(json.dumps(told, indent=1, ensure_ascii=False))


@state_app.command()
def forget(
    state: _State,
    profile: _Profile,
    account: Annotated[str, typer.Option(help="The account's id.")],
    decisions: Annotated[
        Path | None, typer.Option(help="Published decisions, where no entity's key holds the account.")
    ] = None,
) -> None:
    """Take an account out of the state of a stopped flow, undo records included, and compact.

    What was published, what stands in backups and what a model has learned is not in the state and stays; see
    docs/erasure.md.
    """
    from flows.inspect_state import forget as forget_account  # noqa: PLC0415

    found = forget_account(state, profile, account, decisions)
    typer.echo(
        f"forgotten: {found['payments']:,} payments and {found['cards']:,} cards; {found['records_deleted']:,} records "
        f"deleted, {found['records_changed']:,} of others changed; backups and published records still hold the account"
    )
