"""The files: the same bytes for the same parameters, and only the planted lines break a contract."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import orjson
import pyarrow.parquet
import pytest

from load_tests.generate import STREAMS, generate, is_made, main
from load_tests.traffic.layout import PATTERNS, Params
from schemas.errors import ContractError
from schemas.events import Transaction
from schemas.iso import CURRENCY_EXPONENT
from schemas.pan import luhn_valid
from schemas.validate import decode_json

SMALL = Params(payments=12_000, days=30, seed=5)
NOW_US = SMALL.end_us


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("traffic")
    generate(SMALL, out)
    return out


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def readable(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in lines(path):
        try:
            records.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue
    return records


def test_the_same_parameters_give_the_same_bytes_in_another_process(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "load_tests.generate", "--out", str(tmp_path)]
    command += ["--payments", "12000", "--days", "30", "--seed", "5"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "77"})
    for stream in (*STREAMS.values(), "truth"):
        name = f"{stream}.jsonl"
        assert (made / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_another_seed_gives_other_people_and_payments(made: Path, tmp_path: Path) -> None:
    generate(replace(SMALL, seed=6), tmp_path)
    ours, theirs = (readable(folder / "transactions.jsonl") for folder in (made, tmp_path))
    assert not {row.get("account_id") for row in ours} & {row.get("account_id") for row in theirs} - {None}


@pytest.mark.parametrize("name", list(STREAMS))
def test_only_the_planted_lines_break_their_contract(made: Path, name: str) -> None:
    refused: Counter[str] = Counter()
    good = 0
    for line in lines(made / f"{STREAMS[name]}.jsonl"):
        try:
            decode_json(name, line, now_us=NOW_US + 31 * 86_400_000_000)
            good += 1
        except ContractError as error:
            refused[error.reason] += 1
    assert good > 100
    if name == "transaction":
        assert sum(refused.values()) == 18
        assert set(refused) >= {"NOT_JSON", "MISSING_FIELD", "BAD_CURRENCY", "BAD_TIME", "OUT_OF_RANGE", "WRONG_TYPE"}
    else:
        assert refused == {"NOT_JSON": 1, "MISSING_FIELD": 1}


def test_retries_repeat_the_line_and_conflicts_do_not(made: Path) -> None:
    seen: dict[str, list[bytes]] = {}
    for line in lines(made / "transactions.jsonl"):
        record = orjson.loads(line) if line.endswith(b"}") else {}
        if str(record.get("transaction_id", "")).startswith("tx-0"):
            seen.setdefault(record["transaction_id"], []).append(line)
    assert len(seen) == SMALL.payments
    repeated = [found for found in seen.values() if len(found) > 1]
    same = [found for found in repeated if len(set(found)) == 1]
    assert 0.001 < len(same) / SMALL.payments < 0.004
    assert len(repeated) - len(same) == 2


def test_some_payments_arrive_late_by_minutes_to_hours(made: Path) -> None:
    latest, late = "", []
    for record in readable(made / "transactions.jsonl"):
        time = str(record.get("event_time", ""))
        if len(time) != 27 or not str(record.get("transaction_id")).startswith("tx-0"):
            continue
        if time < latest:
            late.append(record["transaction_id"])
        latest = max(latest, time)
    # Retries come after their time, too.
    assert 0.004 < len(set(late)) / SMALL.payments < 0.011


def test_the_other_streams_are_in_event_time_order(made: Path) -> None:
    for stream in ("device_events", "identity_events", "outcomes"):
        times = [row["event_time"] for row in readable(made / f"{stream}.jsonl") if "event_time" in row]
        assert times == sorted(times)


def test_the_truth_names_every_payment_once(made: Path) -> None:
    truth = readable(made / "truth.jsonl")
    assert [row["transaction_id"] for row in truth] == [f"tx-{number:09d}" for number in range(SMALL.payments)]
    for row in truth:
        assert row["fraud"] == ("pattern" in row) == ("episode" in row)
    assert {row["pattern"] for row in truth if row["fraud"]} == set(PATTERNS[1:])
    share = sum(row["fraud"] for row in truth) / len(truth)
    assert 0.005 < share < 0.015


def test_payments_use_every_channel_type_and_several_currencies_that_the_profile_can_convert(made: Path) -> None:
    payments = [
        row for row in readable(made / "transactions.jsonl") if str(row.get("transaction_id")).startswith("tx-0")
    ]
    channels = Counter(row["channel"] for row in payments)
    assert all(count > 0.02 * SMALL.payments for count in channels.values())
    assert len(channels) == 5
    assert set(Counter(row["payment_type"] for row in payments)) == {"purchase", "refund", "reversal", "verification"}
    currencies = {row["currency"] for row in payments}
    rates = Path(__file__).resolve().parents[2] / "deploy/profiles/cards/rates.csv"
    convertible = {"EUR"} | {line.split(",")[1] for line in rates.read_text().splitlines()[1:] if line[:1].isdigit()}
    assert {"EUR", "GBP", "USD"} <= currencies <= convertible
    yen = [row["amount_minor"] for row in payments if row["currency"] == "JPY"]
    assert CURRENCY_EXPONENT["JPY"] == 0
    assert all(amount < 3_000_000 for amount in yen)


@pytest.mark.parametrize("file_format", ["avro", "parquet"])
def test_avro_and_parquet_hold_the_payments_of_the_lines(made: Path, tmp_path: Path, file_format: str) -> None:
    paths = generate(replace(SMALL, file_format=file_format), tmp_path)
    by_id = {row["transaction_id"]: row for row in readable(made / "transactions.jsonl") if "transaction_id" in row}
    records: list[dict[str, Any]]
    if file_format == "avro":
        with paths["transactions"].open("rb") as source:
            rows: list[Any] = list(fastavro.reader(source))
        records = rows
    else:
        records = pyarrow.parquet.read_table(paths["transactions"]).to_pylist()
    planted = [row for row in records if row["transaction_id"].startswith("tx-b")]
    assert len(planted) == 10
    good = [row for row in records if row["transaction_id"].startswith("tx-0")]
    assert {row["transaction_id"] for row in good} == {name for name in by_id if name.startswith("tx-0")}
    for row in good[:2000]:
        assert row["event_time"].strftime("%Y-%m-%dT%H:%M:%S.%fZ") == by_id[row["transaction_id"]]["event_time"]
        present = {name: value for name, value in row.items() if value is not None and name != "event_time"}
        told = {name: value for name, value in by_id[row["transaction_id"]].items() if name != "event_time"}
        if present["amount_minor"] - told["amount_minor"] not in (100, -100):  # planted conflicts
            assert present == told


def test_traffic_is_made_anew_for_other_parameters_only(made: Path) -> None:
    assert is_made(SMALL, made)
    assert not is_made(replace(SMALL, seed=6), made)
    assert not is_made(SMALL, made / "elsewhere")


def test_traffic_is_made_anew_by_another_generator(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "habits.py").write_text("changed = True\n")
    monkeypatch.setattr("load_tests.traffic.__path__", [str(tmp_path)])
    assert not is_made(SMALL, made)


def test_another_format_replaces_the_files_of_the_first(tmp_path: Path) -> None:
    tiny = Params(payments=600, customers=60, days=10)
    generate(tiny, tmp_path)
    generate(replace(tiny, file_format="parquet"), tmp_path)
    assert not (tmp_path / "transactions.jsonl").exists()
    assert (tmp_path / "transactions.parquet").exists()


def test_raw_card_numbers_are_test_numbers_and_stand_instead_of_the_token(tmp_path: Path) -> None:
    generate(Params(payments=2000, days=20, pans=True), tmp_path)
    records = [row for row in readable(tmp_path / "transactions.jsonl") if str(row.get("transaction_id"))[:4] == "tx-0"]
    raw = [row for row in records if "pan" in row]
    assert 0.1 < len(raw) / len(records) < 0.4
    for row in raw:
        assert luhn_valid(row["pan"])
        assert len(row["pan"]) == 16
        assert not {"card_id", "bin", "last4"} & set(row)


def test_the_command_refuses_what_cannot_be_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--days", "1"])
    assert "days >= 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--payments", "40000", "--customers", "20", "--days", "3"])
    assert "raise --customers or --days" in capsys.readouterr().err


def test_the_benchmark_holds_one_merchant_at_4096_payments_a_day_and_all_six_entities(tmp_path: Path) -> None:
    main(["--out", str(tmp_path), "--bench", "--payments", "100000", "--cards", "50000"])
    events = []
    for line in lines(tmp_path / "transactions.jsonl"):
        event = decode_json("transaction", line, now_us=NOW_US)
        assert isinstance(event, Transaction)
        assert None not in (event.card_id, event.device_id, event.ip, event.merchant_id, event.terminal_id)
        events.append(event)
    assert len(events) == 100_000
    times = [event.event_time_us for event in events]
    assert times == sorted(times)
    merchants = Counter(event.merchant_id for event in events)
    (top, count), (_, second) = merchants.most_common(2)
    assert count == 5_000
    assert second < 1_500
    its = [event.event_time_us for event in events if event.merchant_id == top]
    assert sum(its[-1] - 86_400_000_000 < time <= its[-1] for time in its) == 4096
    assert len({event.card_id for event in events}) > 20_000
