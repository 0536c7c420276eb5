"""Make traffic: payments with device, identity and outcome streams, and the truth about each payment.

    python -m load_tests.generate --out DIR [--payments 200000] [--days 60] [--customers N] [--seed 7]
    python -m load_tests.generate --out DIR --drift amounts --drift-day 40
    python -m load_tests.generate --out DIR --movement [--customers 500] [--days 365]
    python -m load_tests.generate --out DIR --bench [--payments 1000000] [--cards 1000000]

The same parameters give the same bytes. docs/traffic.md says what is in it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import orjson

import load_tests.traffic as traffic_package
from load_tests.traffic.bench import write_bench
from load_tests.traffic.drift import KINDS as DRIFTS
from load_tests.traffic.layout import Params
from load_tests.traffic.mishaps import broken_events, broken_payments, order_of_arrival
from load_tests.traffic.records import (
    Columns,
    device_event_columns,
    identity_event_columns,
    outcome_columns,
    payment_columns,
    truth_columns,
)
from load_tests.traffic.simulate import Traffic, simulate
from load_tests.traffic.writer import FORMATS, encode_line, to_records, write_lines, write_records

STREAMS: Final = {
    "transaction": "transactions",
    "device_event": "device_events",
    "identity_event": "identity_events",
    "outcome": "outcomes",
}
PARAMS_FILE: Final = "params.json"
_USUAL: Final = Params()

Record = dict[str, Any]


def generate(params: Params, out: Path) -> dict[str, Path]:
    """Write one simulation to folder `out`.

    Files of an earlier one are replaced. `params.json` is written last: where it stands, the files are complete.

    Returns:
        Path by stream: transactions, device_events, identity_events, outcomes, truth.

    Raises:
        ValueError: Parameters that do not fit together.
    """
    _check(params)
    traffic = simulate(params)
    out.mkdir(parents=True, exist_ok=True)
    _clear(out)
    paths = {stream: out / f"{stream}.{params.file_format}" for stream in STREAMS.values()}
    _write_payments(traffic, paths["transactions"])
    for name, columns in (
        ("device_event", device_event_columns(traffic)),
        ("identity_event", identity_event_columns(traffic)),
        ("outcome", outcome_columns(traffic)),
    ):
        _write_stream(params, name, columns, paths[STREAMS[name]])
    paths["truth"] = out / "truth.jsonl"
    write_lines(paths["truth"], map(orjson.dumps, to_records(truth_columns(traffic), as_text=True)))
    (out / PARAMS_FILE).write_bytes(orjson.dumps(fingerprint(params), option=orjson.OPT_INDENT_2))
    return paths


def fingerprint(params: Params) -> Record:
    """What decides the bytes: the parameters, and the generator itself, so that traffic of another one is made anew."""
    code = hashlib.sha256()
    for source in (Path(__file__), *sorted(Path(traffic_package.__path__[0]).glob("*.py"))):
        code.update(source.read_bytes())
    return {"generator": code.hexdigest(), **asdict(params), "customers": params.customer_count}


def is_made(params: Params, out: Path) -> bool:
    """Whether `out` already holds the traffic of these parameters."""
    path = out / PARAMS_FILE
    return path.exists() and bool(orjson.loads(path.read_bytes()) == fingerprint(params))


def _check(params: Params) -> None:
    if params.file_format not in FORMATS:
        message = f"file_format: expected one of {FORMATS}, got {params.file_format!r}"
        raise ValueError(message)
    if params.payments < 1 or params.days < 3 or params.customer_count < 20:
        message = (
            "expected payments >= 1, days >= 3, customers >= 20; "
            f"got {params.payments}, {params.days}, {params.customer_count}"
        )
        raise ValueError(message)
    if params.drift is not None and (params.drift not in DRIFTS or not 0 < params.drift_day < params.days):
        message = (
            f"drift: expected one of {DRIFTS} on a day from 1 to {params.days - 1}, "
            f"got {params.drift!r} on {params.drift_day}"
        )
        raise ValueError(message)
    if not 0 <= params.fraud_share <= 0.2:
        message = f"fraud_share: expected 0 to 0.2, got {params.fraud_share!r}"
        raise ValueError(message)


def _clear(out: Path) -> None:
    """Remove what an earlier run wrote: a stream in two formats would be read twice."""
    (out / PARAMS_FILE).unlink(missing_ok=True)
    for stream in STREAMS.values():
        for suffix in FORMATS:
            (out / f"{stream}.{suffix}").unlink(missing_ok=True)


def _write_payments(traffic: Traffic, path: Path) -> None:
    """Payments in order of arrival, with late ones, retries and broken lines."""
    params = traffic.world.params
    rows = order_of_arrival(params, traffic.payments).row.tolist()
    as_text = path.suffix == ".jsonl"
    records = to_records(payment_columns(traffic), as_text=as_text)
    if as_text:
        # A line is a third of the size of its record as a dict: none of these is kept.
        lines = [orjson.dumps(record) for record in records]
        delivered = [lines[row] for row in rows]
        for place, item in reversed(broken_payments(params, delivered, as_text=True)):
            delivered.insert(place + 1, encode_line(item))
        write_lines(path, delivered)
        return
    kept = list(records)
    arrived = [kept[row] for row in rows]
    for place, item in reversed(broken_payments(params, arrived, as_text=False)):
        if isinstance(item, dict):
            arrived.insert(place + 1, item)
    write_records(path, "transaction", arrived)


def _write_stream(params: Params, name: str, columns: Columns, path: Path) -> None:
    as_text = path.suffix == ".jsonl"
    records = to_records(columns, as_text=as_text)
    if not as_text:
        write_records(path, name, list(records))
        return
    lines = [orjson.dumps(record) for record in records]
    for place, item in reversed(broken_events(lines, params.rng(f"broken {name}"))):
        lines.insert(place + 1, encode_line(item))
    write_lines(path, lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--payments", type=int, help="payments in all, frauds included")
    parser.add_argument("--days", type=int, help="simulated days")
    parser.add_argument("--customers", type=int, help="account holders")
    parser.add_argument("--seed", type=int, default=_USUAL.seed)
    parser.add_argument("--start", help="first day, YYYY-MM-DD, UTC")
    parser.add_argument("--format", choices=FORMATS, default="jsonl")
    parser.add_argument("--fraud-share", type=float, default=_USUAL.fraud_share, help="frauds among the payments")
    parser.add_argument("--pans", action="store_true", help="a quarter of the cards as raw test card numbers")
    parser.add_argument("--drift", choices=DRIFTS, help="what changes on --drift-day; load_tests/traffic/drift.py")
    parser.add_argument("--drift-day", type=int, help="day from which on it does")
    parser.add_argument("--movement", action="store_true", help="a year of genuine payments of people on the move")
    parser.add_argument("--bench", action="store_true", help="input of the throughput benchmark")
    parser.add_argument("--cards", type=int, default=1_000_000, help="cards of --bench")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    params = Params(seed=given.seed, file_format=given.format, fraud_share=given.fraud_share, pans=given.pans)
    if given.movement:
        customers, days = given.customers or 500, given.days or 365
        params = replace(
            params,
            movement=True,
            customers=customers,
            days=days,
            payments=customers * days * 4 // 5,
            start="2025-06-02",
        )
    elif given.bench:
        params = replace(params, payments=1_000_000)
    chosen = {name: getattr(given, name) for name in ("payments", "days", "customers", "start", "drift", "drift_day")}
    params = replace(params, **{name: value for name, value in chosen.items() if value is not None})
    if given.bench:
        path = write_bench(params, given.cards, given.out)
        written = {"transactions": path}
    else:
        try:
            written = generate(params, given.out)
        except ValueError as error:
            parser.error(str(error))
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in written.values())
    sys.stderr.write(f"{params.payments} payments in {time.monotonic() - started:.1f} s: {sizes}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
