"""A real schema registry, Apicurio, one process on loopback, from Maven Central; for tests and for trying things out.

    with ApicurioRegistry(directory) as registry:
        registry.url                           # http://127.0.0.1:PORT/apis/ccompat/v7

It is fetched once, by Maven (110 MB), into the user's cache (XDG_CACHE_HOME/weir/apicurio). What is registered lives in
memory and ends with the process.

    python -m load_tests.registry DIRECTORY [--port PORT]      runs one until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final

from load_tests.stand_ins import fetched, free_ports

VERSION: Final = "3.0.9"
"""Of Apicurio Registry; it needs Java 17."""
_ARTIFACT: Final = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_RUNNER: Final = f"apicurio-registry-app-{VERSION}-runner.jar"
_API: Final = "/apis/ccompat/v7"
_MARK: Final = "complete"
_START_S: Final = 90.0
_STOP_S: Final = 10.0


class RegistryUnavailableError(Exception):
    """No registry can be had; the message says what is missing."""


def registry_home() -> Path:
    """Folder of the unpacked registry, fetched with Maven when it is not there yet.

    Raises:
        RegistryUnavailableError: Java or Maven is missing, or the download failed.
    """
    for tool, package in (("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        if shutil.which(tool) is None:
            message = f"Apicurio needs {tool}, found none on PATH; apt-get install {package}"
            raise RegistryUnavailableError(message)
    with fetched("apicurio") as cache:
        home = cache / VERSION
        if not (home / _MARK).exists():
            _download(cache, home)
    return home


def _download(cache: Path, home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as made:
        command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={made}"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
        if done.returncode:
            message = f"Maven could not fetch Apicurio {VERSION}: {(done.stdout + done.stderr).strip()[-1500:]}"
            raise RegistryUnavailableError(message)
        unpacked = Path(made) / "unpacked"
        with tarfile.open(next(Path(made).glob("*.tar.gz"))) as archive:
            archive.extractall(unpacked, filter="data")
        shutil.rmtree(home, ignore_errors=True)
        unpacked.rename(home)
        (home / _MARK).touch()


class ApicurioRegistry:
    """One registry process.

    Attributes:
        url: Of its API that is Confluent's.
    """

    def __init__(self, directory: Path, port: int | None = None) -> None:
        """Prepare; `start` starts it.

        Args:
            directory: For its output.
            port: On 127.0.0.1; default: a free one.
        """
        self._directory = directory
        (free,) = free_ports(1)
        self._port = port if port is not None else free
        self.url = f"http://127.0.0.1:{self._port}{_API}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers.

        Raises:
            RegistryUnavailableError: It ended or did not answer in time; with the end of its output.
        """
        home = registry_home()
        self._directory.mkdir(parents=True, exist_ok=True)
        listen = [f"-Dquarkus.http.port={self._port}", "-Dquarkus.http.host=127.0.0.1"]
        words = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", *listen, "-jar", str(home / _RUNNER)]
        log = self._directory / "registry.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError):  # refused, or 503 while it starts
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}{_API}/subjects", timeout=2).close()
                return
            time.sleep(0.1)
        self.stop()
        message = f"Apicurio did not answer within {_START_S:g} s: {log.read_text(errors='replace')[-2000:]}"
        raise RegistryUnavailableError(message)

    def stop(self) -> None:
        """End it; what was registered is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> ApicurioRegistry:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def main() -> None:
    """Run a registry until it is told to stop."""
    parser = argparse.ArgumentParser(description="Apicurio, a schema registry, on loopback")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=8081)
    given = parser.parse_args()
    try:
        with ApicurioRegistry(given.directory, given.port) as registry:
            sys.stdout.write(f"{registry.url}\n")
            sys.stdout.flush()
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    except RegistryUnavailableError as error:
        message = f"registry: {error}"
        raise SystemExit(message) from error


if __name__ == "__main__":
    main()
