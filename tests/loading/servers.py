"""Start and steer origins that run in processes of their own, so that they cannot share the loader's GIL."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.loading.shape import Counters, Shape, to_json

ROOT = Path(__file__).parents[2]
S3_KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


class RangeServer:
    """A range server over one folder, running until the `with` block ends."""

    def __init__(self, folder: Path, shape: Shape | None = None, *, port: int = 0) -> None:
        self.folder = folder
        self.first_shape = shape
        self.port = port

    def __enter__(self) -> RangeServer:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.loading.range_server", str(self.folder), str(self.port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.control = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)
        if self.first_shape is not None:
            self.shape(self.first_shape)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server at once, open answers included: the origin is gone."""
        self.control.close()
        self.process.kill()
        self.process.communicate()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def shape(self, shape: Shape) -> None:
        self.control.put("/-/shape", json=to_json(shape)).raise_for_status()

    def counters(self) -> Counters:
        found = self.control.get("/-/counters").raise_for_status().json()
        return Counters(**found | {"ranges": [tuple(answered) for answered in found["ranges"]]})

    def forget(self) -> None:
        self.control.delete("/-/counters").raise_for_status()


class S3Server:
    """moto's S3, with the buckets that tests make in it. `environment` is what a client needs to find it."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = S3_KEYS | {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.client = httpx.Client(base_url=self.endpoint, timeout=60, trust_env=False)

    def upload(self, bucket: str, key: str, content: bytes | Path) -> str:
        """Put an object, making its bucket if need be, and return its URI. Reading it takes the keys."""
        body = content.read_bytes() if isinstance(content, Path) else content
        self.client.put(f"/{bucket}").raise_for_status()
        self.client.put(f"/{bucket}/{key}", content=body).raise_for_status()
        return f"s3://{bucket}/{key}"


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run moto's server in its own process and wait until it answers."""
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    environment = os.environ | {"MOTO_S3_CUSTOM_ENDPOINTS": f"http://127.0.0.1:{port}"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment) as process:
        try:
            server = S3Server(port)
            wait_until_up(server.client, process)
            yield server
            server.client.close()
        finally:
            process.kill()


def wait_until_up(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "moto's server ended"
        with contextlib.suppress(httpx.TransportError):
            client.get("/")
            return
        assert time.monotonic() < deadline, "moto's server did not answer within a minute"
        time.sleep(0.05)


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
