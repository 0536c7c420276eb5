"""A real S3 server for tests: moto's, in a process of its own, on loopback."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "weir-backups"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


def missing() -> str | None:
    """Why there can be no server here, None when there can."""
    absent = [name for name in ("moto", "flask", "flask_cors") if importlib.util.find_spec(name) is None]
    return f"no S3 server: {', '.join(absent)} not installed" if absent else None


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """The environment that reaches a server with one empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                made = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")  # noqa: S310 - loopback
                urllib.request.urlopen(made, timeout=10).close()  # noqa: S310
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None
                time.sleep(0.1)
        yield {**ENVIRONMENT, "AWS_ENDPOINT_URL": url}
    finally:
        process.kill()
        process.wait()
