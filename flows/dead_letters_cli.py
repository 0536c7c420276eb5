"""`weir dead-letters`: what could not be read, why, and how to have it read after all.

The steps of an operator: docs/runbooks/dead-letters.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from flows.config import Config
    from flows.dead_letters import Again, Letter, Place, Reading, Wanted

dead_letters_app = typer.Typer(
    help="Dead letters: list them, look at one, send what they are about again.", no_args_is_help=True
)

_Config = Annotated[Path | None, typer.Option(help="The weir.toml of the flow.")]
_File = Annotated[Path | None, typer.Option("--file", help="dead_letters.jsonl of a replay, instead of --config.")]
_Reason = Annotated[str | None, typer.Option(help="Only these, such as MISSING_FIELD.")]
_Topic = Annotated[str | None, typer.Option(help="Only those of messages of this topic.")]
_Since = Annotated[str | None, typer.Option(help="Only of messages appended then or later; RFC 3339.")]
_Until = Annotated[str | None, typer.Option(help="Only of messages appended before then; RFC 3339.")]
_KEYS = {
    "transactions": "account_id",
    "device_events": "device_id",
    "identity_events": "account_id",
    "outcomes": "transaction_id",
}


@dead_letters_app.command("list")
def list_command(
    config: _Config = None,
    file: _File = None,
    reason: _Reason = None,
    topic: _Topic = None,
    since: _Since = None,
    until: _Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Lines at the most; the sums count all.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, all of them, no sums.")] = False,
) -> None:
    """List dead letters: the message each is about, when it was appended, the reason; then sums."""
    from flows.dead_letters import dumped  # noqa: PLC0415  # --help must not wait for librdkafka

    letters = _letters(config, file, _wanted(reason, topic, since, until))
    if as_json:
        for letter in letters:
            typer.echo(dumped(letter))
        return
    sums: Counter[tuple[str, str]] = Counter()
    for number, letter in enumerate(letters):
        sums[letter.place.topic, letter.reason] += 1
        if number < limit:
            typer.echo(f"{letter.place}  {_time(letter.seen_at_us)}  {letter.reason}  {letter.detail}")
    total = sum(sums.values())
    if total > limit:
        typer.echo(f"... and {total - limit:,} more")
    typer.echo(f"{total:,} dead letters")
    for (of, why), count in sums.most_common():
        typer.echo(f"{count:>9,}  {of}  {why}")


@dead_letters_app.command()
def show(
    place: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET of the message it is about, as `list` tells.")],
    config: _Config = None,
    file: _File = None,
) -> None:
    """Show one dead letter whole, and whether the message it is about still stands in its topic."""
    from flows.dead_letters import Wanted, parse_place, topic_streams  # noqa: PLC0415

    wanted = parse_place(place)
    letters = list(_letters(config, file, Wanted(places=frozenset({wanted}))))  # all, so that the consumer is closed
    letter = letters[-1] if letters else None
    if letter is None:
        message = f"{place}: there is no dead letter about it; `weir dead-letters list` tells of those there are"
        raise ConfigError(message)
    rows = [("about", str(letter.place)), ("reason", letter.reason), ("detail", letter.detail)]
    rows += [("appended", _time(letter.seen_at_us))]
    if letter.event_time_us is not None:
        rows.append(("event time", _time(letter.event_time_us)))
    if letter.stands_at is not None:
        rows.append(("stands at", str(letter.stands_at)))
    if config is not None:
        loaded = _load(config)
        known = topic_streams(loaded).get(wanted.topic)
        if known is None:
            rows.append(("original", f"{config} names no topic {wanted.topic}"))
        else:
            reading = _reading(loaded, known[1])
            there = reading.originals([wanted])
            reading.close()
            rows.append(("original", "still in its topic" if there else "no longer in its topic: retention"))
    rows.append(("payload", letter.payload))
    for name, told in rows:
        typer.echo(f"{name:<11}{told}")


@dead_letters_app.command()
def replay(
    config: Annotated[Path, typer.Option(help="The weir.toml of the flow.")],
    reason: _Reason = None,
    topic: _Topic = None,
    since: _Since = None,
    until: _Until = None,
    mended: Annotated[
        Path | None,
        typer.Option(help='Lines of {"topic", "partition", "offset", "record"}: send these records instead.'),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was sent again before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be sent, and send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Send again what dead letters are about: the messages as they were, or mended records in their place.

    As they were: when the fault was on our side. Event times stay, so windows take them at their place.
    """
    from flows.dead_letters import already_sent, send_again, topic_streams  # noqa: PLC0415

    loaded = _load(config)
    records = _mended(loaded, mended) if mended is not None else None
    wanted = _wanted(reason, topic, since, until, None if records is None else frozenset(one.place for one in records))
    letters = {letter.place: letter for letter in _letters(config, None, wanted)}
    if records is not None and (missing := [str(one.place) for one in records if one.place not in letters]):
        message = f"{mended}: no dead letter tells of {', '.join(missing[:5])}; nothing was sent"
        raise ConfigError(message)
    streams = topic_streams(loaded)
    if strange := sorted({place.topic for place in letters} - streams.keys()):
        message = f"{config}: names no topic {', '.join(strange)}; nothing was sent; give --topic"
        raise ConfigError(message)
    sending: dict[str, list[Again]] = {}
    gone = 0
    skipped = 0
    for bootstrap in sorted({streams[place.topic][1] for place in letters}):
        own = [letter for place, letter in letters.items() if streams[place.topic][1] == bootstrap]
        reading = _reading(loaded, bootstrap)
        before = set() if again else already_sent(reading, own)
        left = [letter.place for letter in own if letter.place not in before]
        skipped += len(own) - len(left)
        found = _as_they_were(reading, left) if records is None else [one for one in records if one.place in set(left)]
        reading.close()
        gone += len(left) - len({one.place for one in found})
        sending[bootstrap] = found
    count = sum(map(len, sending.values()))
    for found in sending.values():
        for one in found:
            typer.echo(f"{one.place}  {letters[one.place].reason}")
    typer.echo(f"{count:,} to send; {skipped:,} were sent again before; {gone:,} are no longer in their topic")
    if dry_run or not count:
        return
    if not yes:
        typer.confirm(f"Append {count:,} records to their topics?", abort=True)
    for bootstrap, found in sending.items():
        send_again(loaded, bootstrap, found)
    typer.echo(f"{count:,} sent and acknowledged")


def _wanted(
    reason: str | None, topic: str | None, since: str | None, until: str | None, places: frozenset[Place] | None = None
) -> Wanted:
    from flows.dead_letters import Wanted  # noqa: PLC0415

    return Wanted(reason, topic, _parsed("--since", since), _parsed("--until", until), places)


def _parsed(option: str, text: str | None) -> int | None:
    from schemas.times import parse_rfc3339_us  # noqa: PLC0415

    if text is None:
        return None
    try:
        return parse_rfc3339_us(text)
    except ValueError as error:
        message = f"{option} {text!r}: expected a time as in RFC 3339, such as 2026-03-01T12:00:00Z"
        raise ConfigError(message) from error


def _time(time_us: int) -> str:
    from schemas.times import format_rfc3339_us  # noqa: PLC0415

    return format_rfc3339_us(time_us)


def _load(path: Path) -> Config:
    from flows.config import load_config  # noqa: PLC0415

    return load_config(path)


def _reading(config: Config, bootstrap: str) -> Reading:
    from flows.dead_letters import Reading  # noqa: PLC0415

    return Reading(config, bootstrap)


def _letters(config: Path | None, file: Path | None, wanted: Wanted) -> Iterable[Letter]:
    from flows.dead_letters import Place, letter_of, letters_in  # noqa: PLC0415
    from flows.streams import kafka_stream  # noqa: PLC0415

    if file is not None and config is None:
        yield from filter(wanted, letters_in(file))
        return
    if config is None or file is not None:
        message = "expected one of --config and --file"
        raise ConfigError(message)
    loaded = _load(config)
    stream = kafka_stream("dead_letters", loaded.streams["dead_letters"])
    decode = _decoder(loaded)
    reading = _reading(loaded, stream.bootstrap)
    # A dead letter is appended after its original, so nothing before that time is asked for.
    start = None if wanted.since_us is None else reading.since(stream.topic, wanted.since_us)
    try:
        for message in reading.messages(stream.topic, start):
            place = Place(stream.topic, message.partition(), message.offset())
            try:
                letter = letter_of(decode(message.value() or b"", message.headers() or []), place)
            except (ContractError, KeyError) as error:
                told = f"{place}: expected a dead letter as [wire] of {config} has it, found something else ({error})"
                raise ConfigError(told) from error
            if wanted(letter):
                yield letter
    finally:
        reading.close()


def _decoder(config: Config) -> Any:
    from flows.registry import registry_of  # noqa: PLC0415
    from schemas.codec import decode_json_mapping  # noqa: PLC0415
    from schemas.wire_avro import FingerprintDecoder, FramedDecoder  # noqa: PLC0415

    if config.wire.format == "json":
        return lambda value, _headers: decode_json_mapping("dead_letter", value)
    registry = registry_of(config.wire)
    return FingerprintDecoder("dead_letter") if registry is None else FramedDecoder("dead_letter", registry)


def _as_they_were(reading: Reading, places: list[Place]) -> list[Again]:
    from flows.dead_letters import Again  # noqa: PLC0415

    return [
        Again(place, message.value() or b"", message.key(), message.headers() or [])
        for place, message in reading.originals(places).items()
    ]


def _mended(config: Config, path: Path) -> list[Again]:
    """Records of a file, each as the door would take it.

    Raises:
        ConfigError: A line would be a dead letter again, or is none of ours; nothing is sent then.
    """
    import orjson  # noqa: PLC0415

    from flows.config_check import pan_keys  # noqa: PLC0415
    from flows.contracts_cli import published_form, subject_of  # noqa: PLC0415
    from flows.dead_letters import Again, Place, topic_streams  # noqa: PLC0415
    from flows.live_process import CONTRACTS, now_us  # noqa: PLC0415
    from flows.registry import registry_of  # noqa: PLC0415
    from schemas.codec import decode_json_mapping  # noqa: PLC0415
    from schemas.validate import decode_json  # noqa: PLC0415
    from schemas.wire_avro import FingerprintEncoder, FramedEncoder  # noqa: PLC0415

    streams = topic_streams(config)
    tokeniser = pan_keys(config)
    registry = None if config.wire.format == "json" else registry_of(config.wire)
    out: list[Again] = []
    faults: list[str] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise ConfigError(message) from error
    for number, line in enumerate(lines, 1):
        try:
            told = orjson.loads(line)
            place, record = Place(told["topic"], told["partition"], told["offset"]), told["record"]
            stream = streams[place.topic][0]
            key = str(record[_KEYS[stream]]).encode()
        except (ValueError, KeyError, TypeError) as error:
            faults.append(f"{path}:{number}: expected topic (of an input), partition, offset, record; found {error!r}")
            continue
        contract, value = CONTRACTS[stream], orjson.dumps(record)
        headers: list[tuple[str, bytes]] = []
        try:
            decode_json(contract, value, now_us=now_us(), limits=config.limits, tokeniser=tokeniser)
            if config.wire.format != "json":
                mapping = decode_json_mapping(contract, value)
                if registry is None:
                    value, headers = FingerprintEncoder()(contract, mapping)
                else:
                    ids = {contract: registry.register(subject_of(contract), published_form(contract))}
                    value, headers = FramedEncoder(ids)(contract, mapping)
        except ContractError as error:
            faults.append(f"{path}:{number}: it would be a dead letter again, {error.reason}: {error.detail}")
            continue
        out.append(Again(place, value, key, headers))
    if faults:
        more = [f"and {len(faults) - 20} more"] if len(faults) > 20 else []
        message = "\n  ".join(["nothing was sent:", *faults[:20], *more])
        raise ConfigError(message)
    return out
