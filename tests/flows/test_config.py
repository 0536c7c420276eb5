"""weir.toml: what is wrong is told by file, key, value and expectation, all of it at once, and never a secret."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from flows.config import OURS, Config, known_keys, load_config
from schemas.errors import ConfigError

STREAMS = """
[streams]
transactions = "kafka://localhost:9092/transactions.v1"
decisions = "kafka://localhost:9092/decisions.v1"
labelled_outcomes = "kafka://localhost:9092/labelled-outcomes.v1"
dead_letters = "kafka://localhost:9092/dead-letters.v1"
"""
SECRET = "hunter2-of-the-test"  # noqa: S105  # looked for in messages


def written(directory: Path, more: str = "", *, head: str = 'profile = "p"', state: str = 'folder = "s"') -> Path:
    (directory / "p").mkdir(exist_ok=True)
    path = directory / "weir.toml"
    path.write_text(f"{head}\n{STREAMS}\n[state]\n{state}\n{more}")
    return path


def loaded(directory: Path, more: str = "", *, state: str = 'folder = "s"') -> Config:
    return load_config(written(directory, more, state=state))


def test_defaults_are_what_the_documentation_says(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    assert config.profile == tmp_path / "p"
    assert config.state.folder == tmp_path / "s"
    assert (config.state.shards, config.state.memory_mib, config.processes) == (8, 256, 1)
    assert (config.decide.group, config.decide.batch, config.decide.epoch_s) == ("weir-decide", 500, 1.0)
    assert (config.decide.deadlines, config.decide.transactional, config.decide.transaction_s) == (True, False, 0.1)
    assert dict(config.decide.start) == {"transactions": "earliest", "labelled_outcomes": "earliest"}
    assert (config.wire.format, config.wire.registry, config.wire.headers) == ("avro", None, ())
    assert (config.metrics_host, config.metrics_port) == ("127.0.0.1", 9464)
    assert (config.log_level, config.log_format) == ("info", "auto")
    assert (config.limits.max_payload_bytes, config.limits.max_future_us) == (65_536, 86_400_000_000)
    assert config.security.protocol == "plaintext"


def test_every_key_is_documented_and_nothing_else_is(root: Path) -> None:
    text = (root / "docs" / "configuration.md").read_text(encoding="utf-8")
    head, _, properties = text.partition("## Properties")
    documented = re.findall(r"^\| \**`([a-z_.]+)`", head, flags=re.MULTILINE)
    assert len(set(documented)) == len(documented)
    assert set(documented) == set(known_keys())
    assert dict(re.findall(r"^\| `([a-z._]+)` \| (.*) \|$", properties, flags=re.MULTILINE)) == dict(OURS)


def test_the_example_is_valid(root: Path) -> None:
    config = load_config(root / "deploy" / "weir.toml")
    assert config.profile.resolve() == (root / "deploy" / "profiles" / "cards").resolve()
    assert config.kafka["linger.ms"] == 1


def test_a_start_may_be_a_time(tmp_path: Path) -> None:
    config = loaded(tmp_path, '[decide.start]\ntransactions = "1970-01-01T00:00:01Z"')
    assert config.decide.start == {"transactions": 1_000_000, "labelled_outcomes": "earliest"}


REFUSED = {
    "near match": ("[decide]\nbatsh = 5", r"decide\.batsh: no such key in \[decide\]; did you mean 'batch'\?"),
    "no match": ("[log]\nqqq = 5", r"log\.qqq: no such key in \[log\]; known here: format, level"),
    "unknown table": ("[metric]\nport = 1", r"metric: no such key in the top; did you mean 'metrics'\?"),
    "truth": ('[decide]\ndeadlines = "yes"', r"decide\.deadlines is 'yes'; expected true or false, without quotes"),
    "number": ("[decide]\nbatch = 0", r"decide\.batch is 0; expected a whole number from 1 to 100,000"),
    "truth is no number": ("[decide]\nbatch = true", r"decide\.batch is True; expected a whole number"),
    "time": ("[decide]\nepoch = 1", r"decide\.epoch is 1; expected a length of time from 50ms to 1m, such as '500ms'"),
    "time bounds": ('[decide]\nepoch = "1h"', r"decide\.epoch is '1h'; expected a length of time from 50ms to 1m"),
    "word": ('[wire]\nformat = "Avros"', r"wire\.format is 'Avros'; expected one of avro, json; did you mean 'avro'\?"),
    "start": ('[decide.start]\ntransactions = "now"', r"decide\.start\.transactions is 'now'; expected 'earliest'"),
    "table": ("metrics = 5\n[metrics2]", r"metrics is 5; expected a table \[metrics\]"),
    "registry with json": ('[wire]\nformat = "json"\nregistry = "http://r:1"', r"wire\.registry is .*expected none"),
    "registry": ('[wire]\nregistry = "r:1"', r"wire\.registry is 'r:1'; expected a URL http://HOST:PORT"),
    "header": ('[wire]\nheaders = ["a b"]', r"wire\.headers is 'a b'; expected names of headers"),
    "twice": ('[wire]\nheaders = ["a", "a"]', r"wire\.headers is .*expected different names of headers"),
    "ours": ('[kafka]\n"group.id" = "x"', r"kafka\.group\.id: Weir sets this itself; use \[decide\] group"),
    "unquoted": ("[kafka]\nlinger.ms = 1", r'kafka\.linger is a table; expected a property in quotes: "linger\.ms" = '),
    "property": ('[kafka]\n"linger.ms" = [1]', r"kafka\.linger\.ms: expected the name of a librdkafka property and a"),
    "no transactions": ('[decide]\ntransaction_every = "50ms"', r"transaction_every is 'set'; expected nothing: it"),
    "mechanism wanting": ('[kafka.security]\nprotocol = "sasl"', r"kafka\.security\.mechanism is missing; expected it"),
    "password wanting": (
        '[kafka.security]\nprotocol = "sasl_tls"\nmechanism = "plain"\nusername = "u"',
        r"kafka\.security\.password is missing; expected it, since protocol is 'sasl_tls' and mechanism 'plain'",
    ),
    "no effect": (
        '[kafka.security]\nusername = "u"',
        r"kafka\.security\.username is 'set'; expected nothing: it has no effect without protocol 'sasl'",
    ),
    "half a pair": ('[kafka.security]\nprotocol = "tls"\nkey_file = "weir.toml"', r"certificate_file is missing"),
    "no file": ('[kafka.security]\nprotocol = "tls"\nca_file = "x.pem"', r"ca_file is .*x\.pem'; expected a file that"),
    "cluster": (
        '[cluster]\nprocesses = 3\naddresses = ["a:1", "b:2"]',
        r"cluster\.processes is 3; expected 2, as many as there are addresses",
    ),
    "address": ('[cluster]\naddresses = ["a"]', r"cluster\.addresses is 'a'; expected addresses HOST:PORT"),
    "shards": ("[cluster]\nprocesses = 12", r"cluster\.processes is 12; expected at most state\.shards \(8\)"),
    "safe field": ('[pan]\nsafe_fields = ["amount"]', r"pan\.safe_fields is 'amount'; expected identifier fields: acc"),
}  # fmt: skip


@pytest.mark.parametrize(("more", "match"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_told(tmp_path: Path, more: str, match: str) -> None:
    path = written(tmp_path, more)
    if more.startswith("metrics ="):
        path.write_text(f"metrics = 5\n{path.read_text()}".replace(more, ""))
    with pytest.raises(ConfigError, match=match):
        load_config(path)


STREAM_FAULTS = {
    "scheme": ("http://h:1/t", "the scheme must be kafka"),
    "no topic": ("kafka://h:1", "the topic may have"),
    "no port": ("kafka://h/t", "'h' is no HOST:PORT"),
    "port": ("kafka://h:99999/t", "'h:99999' is no HOST:PORT"),
    "user": (f"kafka://u:{SECRET}@h:1/t", r"\[not shown\]@h:1/t'; .*user and password stand in \[kafka.security\]"),
    "topic": ("kafka://h:1/a b", "the topic may have"),
    "twice": ("kafka://localhost:9092/transactions.v1", "a topic of its own; another stream has this one"),
}


@pytest.mark.parametrize(("url", "match"), STREAM_FAULTS.values(), ids=STREAM_FAULTS)
def test_a_stream_that_cannot_be_read_is_told(tmp_path: Path, url: str, match: str) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("kafka://localhost:9092/decisions.v1", url))
    with pytest.raises(ConfigError, match=rf"streams\.decisions is .*{match}") as refused:
        load_config(path)
    assert SECRET not in str(refused.value)


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "weir.toml"
    path.write_text("[decide]\nbatch = 0\n[state]\nfolders = 'x'\n")
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    lines = str(refused.value).splitlines()
    assert len(lines) == 8  # profile, four streams, batch, folder wanting, folders unknown
    assert all(line.startswith(f"{path}: ") for line in lines)


@pytest.mark.parametrize(
    "more",
    [
        f'[kafka.security]\nprotocol = "sasl"\nmechanism = "plain"\nusername = "u"\npassword = "{SECRET}"',
        f'[kafka.security]\nprotocol = "sasl"\nmechanism = "plain"\npassword = {{ value = "{SECRET}" }}',
        f'[kafka.security]\npasswort = "{SECRET}"',
        f'[kafka]\n"sasl.password" = "{SECRET}"',
        f'[kafka]\n"ssl.key.password" = "{SECRET}"',
        f'[wire]\nregistry = "http://u:{SECRET}@r:1"',
        f'password = "{SECRET}"',
        f'[log]\nlevel = "info"\npassword = "{SECRET}',
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path, more: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, more)
    assert SECRET not in str(refused.value)


def test_secrets_come_from_files_and_variables_and_mask_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("WEIR_TEST_SECRET", SECRET)
    sasl = '[kafka.security]\nprotocol = "sasl"\nmechanism = "scram-sha-512"\nusername = "u"\npassword = '
    for source, place in (('{ file = "secret" }', "secret"), ('{ env = "WEIR_TEST_SECRET" }', "WEIR_TEST_SECRET")):
        config = loaded(tmp_path, f"{sasl}{source}")
        secret = config.security.password
        assert secret is not None
        assert secret.value == SECRET
        assert place in str(secret)
        assert SECRET not in f"{config!r} {secret} {secret!r}"
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ('{ file = "none" }', r"password: .*none cannot be read \(No such file"),
        ('{ file = "empty" }', r"password: .*empty is empty; expected a file that holds the secret"),
        ('{ env = "WEIR_TEST_UNSET" }', "password: the variable WEIR_TEST_UNSET is not set"),
    ],
)
def test_a_secret_that_is_not_there_is_told(tmp_path: Path, source: str, match: str) -> None:
    (tmp_path / "empty").write_text("\n")
    sasl = '[kafka.security]\nprotocol = "sasl"\nmechanism = "plain"\nusername = "u"\npassword = '
    with pytest.raises(ConfigError, match=match):
        loaded(tmp_path, f"{sasl}{source}")


def test_a_file_that_is_no_toml_is_told_without_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "weir.toml"
    path.write_text(f'password = "{SECRET}')
    with pytest.raises(ConfigError, match=r"weir\.toml: is not TOML") as refused:
        load_config(path)
    assert SECRET not in str(refused.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
