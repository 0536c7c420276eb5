"""The image without a container engine: deploy/Dockerfile's steps run in a plain directory, then what compose runs.

    python -m load_tests.image --out image-out

Every instruction of every stage is carried out in order, the image's absolute paths below OUT/root, by the Python
that FROM names or, where there is none, by this one. Stages share one root, since an environment cannot be moved. Then,
as compose.yml has it and with the rights of USER where this runs as root: the entry point, `weir topics apply`, `weir
supervise -- weir decide` on compose.weir.toml over a real Kafka (addresses changed), the health check, and the stop
signal. It prints a line a step; what cannot be done without an engine (users, volumes, the base image) is listed as not
run. Exit code 0: all that was run went well.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from load_tests.kafka_broker import BrokerError, KafkaBroker
from load_tests.stand_ins import free_ports

REPOSITORY: Final = Path(__file__).resolve().parents[1]
_ABSOLUTE: Final = ("/opt/", "/tmp/", "/etc/weir", "/var/lib/weir")  # noqa: S108 - of the image
_ENGINE_ONLY: Final = ("groupadd",)
_STEP_S: Final = 900.0
_READY_S: Final = 120.0


class ImageError(Exception):
    """A step failed; the message says which, and what it told."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a Dockerfile."""

    stage: str
    name: str
    words: str


def instructions(text: str) -> list[Instruction]:
    """A Dockerfile's instructions, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found, stage = [], ""
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, words = line.strip().partition(" ")
        if name == "FROM":
            stage = words.rpartition(" ")[2]
        if name:
            found.append(Instruction(stage, name, words.strip()))
    return found


@dataclass(slots=True)
class Build:
    """What has been built so far.

    Attributes:
        root: Stands for the image's /.
        python: Folder with a `python` of the base image's version.
        env: Environment of RUN and of the entry point.
        cwd: Of both.
        said: HEALTHCHECK, ENTRYPOINT, CMD, USER and STOPSIGNAL by (stage, name).
        not_run: What takes an engine.
    """

    root: Path
    python: Path
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path = Path()
    said: dict[tuple[str, str], str] = field(default_factory=dict)
    not_run: list[str] = field(default_factory=list)

    def below(self, text: str) -> str:
        """A text with the image's absolute paths below the root."""
        return re.sub(r"(?<![\w./])(" + "|".join(map(re.escape, _ABSOLUTE)) + ")", rf"{self.root}\1", text)

    def carry_out(self, one: Instruction) -> None:
        """One instruction.

        Raises:
            ImageError: It fails.
        """
        if one.name == "FROM":
            self.not_run.append(f"{one.name} {one.words}")
            if one.words.startswith("python:"):
                self.env = {"PATH": f"{self.python}:{os.environ['PATH']}", "HOME": str(self.root)}
                self.cwd = self.root
        elif one.name == "WORKDIR":
            self.cwd = self.root / one.words.lstrip("/")
            self.cwd.mkdir(parents=True, exist_ok=True)
        elif one.name == "ENV":
            for word in shlex.split(one.words):
                key, _, value = word.partition("=")
                self.env[key] = self.below(value).replace("$PATH", self.env["PATH"])
        elif one.name == "COPY":
            self._copy(one)
        elif one.name == "RUN":
            self._run(one)
        elif one.name in ("VOLUME", "EXPOSE"):
            self.not_run.append(f"{one.name} {one.words}")
        else:
            self.said[one.stage, one.name] = one.words

    def _copy(self, one: Instruction) -> None:
        words = one.words.split()
        if words[0].startswith("--from="):
            for source in words[1:-1]:
                if not (self.root / source.lstrip("/")).exists():
                    message = f"COPY {one.words}: the stage {words[0][7:]} has made no {source}"
                    raise ImageError(message)
            return
        *sources, target = words
        place = (self.root / target.lstrip("/")) if target.startswith("/") else self.cwd / target
        for source in sources:
            origin = REPOSITORY / source
            if not origin.exists():
                message = f"COPY {one.words}: there is no {source}"
                raise ImageError(message)
            if origin.is_dir():
                shutil.copytree(origin, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (place if target.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy(origin, place)

    def _run(self, one: Instruction) -> None:
        if one.words.startswith(_ENGINE_ONLY):
            self.not_run.append(f"RUN {one.words}")
            return
        done = subprocess.run(
            ["sh", "-c", self.below(one.words)],
            cwd=self.cwd,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=_STEP_S,
        )
        if done.returncode:
            message = f"RUN {one.words}: exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
            raise ImageError(message)

    def user(self) -> int | None:
        """The user to run as; None: this one, since only root may be another, and only where that one can read."""
        number = int(self.said["weir", "USER"].partition(":")[0])
        program = (self.python / "python").readlink()
        needed = (self.root, *self.root.parents, *program.parents)
        open_to_all = all(path.stat().st_mode & 0o005 == 0o005 for path in needed)
        return number if os.geteuid() == 0 and open_to_all else None

    def start(self, words: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command of the image."""
        with log.open("wb") as out:
            return subprocess.Popen(
                [self.below(word) for word in words],
                cwd=self.root / "var/lib/weir",
                env={**self.env, "HOME": str(self.root / "var/lib/weir")},
                stdout=out,
                stderr=out,
                user=self.user(),
            )

    def run(self, words: list[str], log: Path) -> str:
        """Run a command of the image to its end; what it told.

        Raises:
            ImageError: It ends with another code than 0.
        """
        code = self.start(words, log).wait(_STEP_S)
        told = log.read_text(errors="replace")
        if code:
            message = f"{shlex.join(words)}: exit {code}: {told[-2000:]}"
            raise ImageError(message)
        return told


def python_of(text: str, out: Path, given: Path | None) -> Path:
    """A folder with `python`: the one given, or of the version that FROM names where there is one, else this one."""
    version = re.search(r"^FROM python:(\d+\.\d+)", text, re.M)
    found = shutil.which(f"python{version[1]}") if version else None
    asked = [str(given or found or sys.executable), "-c", "import sys; print(sys.executable)"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    folder = out / "python"
    folder.mkdir()
    (folder / "python").symlink_to(Path(told.stdout.strip() or sys.executable).resolve())
    return folder


def check(out: Path, python: Path | None, tell: Any) -> Build:
    """Build, run and stop.

    Raises:
        ImageError: A step fails.
        BrokerError: There is no Kafka.
    """
    shutil.rmtree(out, ignore_errors=True)
    root = out / "root"
    root.mkdir(parents=True)
    text = (REPOSITORY / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    build = Build(root, python_of(text, out, python))
    tell(f"python: {(build.python / 'python').readlink()}")
    (root / "tmp").mkdir()
    for one in instructions(text):
        started = time.monotonic()
        build.carry_out(one)
        tell(f"{one.stage:6} {one.name} {one.words[:90]}  {time.monotonic() - started:.1f} s")
    home = root / "var/lib/weir"
    user = build.user()
    if user is not None:
        shutil.chown(home, user)
    tell(f"as user {os.geteuid() if user is None else user}")
    entry = json.loads(build.said["weir", "ENTRYPOINT"])
    tell(build.run([*entry, "--version"], out / "version.log").strip())
    tools = [*json.loads(build.said["tools", "ENTRYPOINT"]), *json.loads(build.said["tools", "CMD"])]
    build.run(tools, out / "tools.log")
    tell("tools: " + shlex.join(tools))
    with KafkaBroker(out / "kafka") as broker:
        _serve(build, out, entry, broker.bootstrap, tell)
    return build


def _serve(build: Build, out: Path, entry: list[str], bootstrap: str, tell: Any) -> None:
    services = yaml.safe_load((REPOSITORY / "deploy" / "compose.yml").read_text(encoding="utf-8"))["services"]
    (port,) = free_ports(1)
    config = (REPOSITORY / "deploy" / "compose.weir.toml").read_text(encoding="utf-8")
    for written, here in (
        ("kafka:19092", bootstrap),
        ('"0.0.0.0"', f'"127.0.0.1"\nport = {port}'),
        ('"/var/lib/weir', f'"{build.root}/var/lib/weir'),
    ):
        if written not in config:
            message = f"compose.weir.toml: expected {written}, found none"
            raise ImageError(message)
        config = config.replace(written, here)
    (build.root / "etc/weir/weir.toml").write_text(config)
    topics = [bootstrap if word == "kafka:19092" else word for word in services["topics"]["command"]]
    build.run([*entry, *topics], out / "topics.log")
    tell(f"topics: {shlex.join(topics)}")
    checked = json.loads(build.said["weir", "HEALTHCHECK"].partition("CMD ")[2])
    checked = [word.replace(":9464/", f":{port}/") for word in checked]
    process = build.start([*entry, *services["decide"]["command"]], out / "decide.log")
    try:
        until = time.monotonic() + _READY_S
        while build.start(checked, out / "health.log").wait(_STEP_S):
            if process.poll() is not None or time.monotonic() > until:
                message = f"decide is not healthy: {(out / 'decide.log').read_text()[-2000:]}"
                raise ImageError(message)
            time.sleep(0.5)
        tell("decide: healthy by the image's own check")
        process.send_signal(signal.Signals[build.said["weir", "STOPSIGNAL"]])
        code = process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code:
        message = f"decide: {build.said['weir', 'STOPSIGNAL']}: exit {code}: {(out / 'decide.log').read_text()[-2000:]}"
        raise ImageError(message)
    tell(f"decide: ended in order on {build.said['weir', 'STOPSIGNAL']}")


def main(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.image", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("image-out"))
    parser.add_argument("--python", type=Path, help="interpreter to build with, which USER must be able to read")
    given = parser.parse_args(words)
    try:
        build = check(given.out.resolve(), given.python, lambda line: print(line, flush=True))
    except (ImageError, BrokerError) as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    for line in build.not_run:
        print(f"not run: {line}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
