"""The daemon as its users run it: a process of its own, killed and started again as machines do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from reconciler.claim import end_keeper
from tests.e2e.waiting import wait_for

COMMAND = Path(sys.executable).parent / "heliostat"
READY_WITHIN = 40.0
END_WITHIN = 20.0


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Daemon:
    """`heliostat run` on one state folder; its HAProxy outlives it until `close`."""

    def __init__(self, folder: Path, repo: Path, ray: str, *, flags: tuple[str, ...] = ()) -> None:
        self.state = folder / "state"
        self.log = folder / "daemon.log"
        self.home = folder / "home"
        self.server = f"http://127.0.0.1:{free_port()}"
        self.gateway = f"http://127.0.0.1:{free_port()}"
        self._flags = (
            f"--repo={repo}",
            f"--ray={ray}",
            f"--listen={self.server.removeprefix('http://')}",
            f"--gateway={self.gateway.removeprefix('http://')}",
            f"--state={self.state}",
            *flags,
        )
        self._child: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=self.server, timeout=10, trust_env=False)

    # -- life -------------------------------------------------------------------------------------

    def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until it has read a commit and seen the cluster."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [COMMAND, "run", *self._flags],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if ready:
            wait_for(self._is_ready, READY_WITHIN, "the daemon is ready", shows=self.tail)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._child is not None
        return self._child.pid

    def kill(self) -> None:
        """End it as a power cut would: HAProxy is in a session of its own and goes on."""
        assert self._child is not None
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._child = None

    def stop(self) -> None:
        """End it as an operator would."""
        if self._child is None:
            return
        child, self._child = self._child, None
        child.terminate()
        try:
            child.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise AssertionError(f"SIGTERM did not end the daemon within {END_WITHIN:g} s\n{self.tail()}") from None

    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._child is not None and self._child.poll() is None

    def close(self) -> None:
        """End the daemon and its HAProxy."""
        try:
            self.stop()
        finally:
            self._client.close()
            end_keeper(self.gateway_folder, signal.SIGKILL)
            _end(self.haproxy())

    def _is_ready(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, f"the daemon ended with {self._child.returncode}\n{self.tail()}"
        with suppress(httpx.TransportError):
            return self._client.get("/readyz").status_code == 200
        return False

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HELIOSTAT_")}
        return kept | {"HELIOSTAT_LOG_LEVEL": "debug", "XDG_STATE_HOME": str(self.home), "NO_COLOR": "1"}

    def tail(self, lines: int = 60) -> str:
        """Return the end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    # -- HAProxy ----------------------------------------------------------------------------------

    @property
    def gateway_folder(self) -> Path:
        """Where the gateway keeps its sockets and state."""
        return self.state / "gateway"

    def gateway_state(self) -> dict[str, Any]:
        """Return what the gateway saved last."""
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.gateway_folder / "gateway.json").read_text())
            return found
        return {}

    def haproxy(self) -> int | None:
        """Return the pid of the HAProxy that serves now, or None."""
        running = self.gateway_state().get("running")
        if running is None or not _is_process(running["pid"], running["started"]):
            return None
        pid: int = running["pid"]
        return pid

    def reloads(self) -> int:
        """Return how often HAProxy was reloaded, as the metric says."""
        return round(self.metric("heliostat_gateway_reloads_total"))

    # -- the API ----------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """Return a document of the API."""
        answer = self._client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def status(self, name: str) -> dict[str, Any]:
        """Return one service's status; empty while the daemon does not know it or is away."""
        with suppress(httpx.TransportError):
            answer = self._client.get(f"/api/v1/services/{name}")
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
        return {}

    def page(self) -> httpx.Response:
        """Return the status page."""
        return self._client.get("/")

    def token(self) -> str:
        """Return the API's token."""
        return (self.state / "token").read_text().strip()

    def post(self, name: str, verb: str, *, token: str | None = None, **body: Any) -> httpx.Response:
        """Ask for an action."""
        headers = {"Authorization": f"Bearer {token or self.token()}"}
        return self._client.post(f"/api/v1/services/{name}/{verb}", json=body, headers=headers)

    def act(self, name: str, verb: str, **body: Any) -> None:
        """Ask for an action that must be accepted."""
        answer = self.post(name, verb, **body)
        assert answer.status_code == 202, answer.text

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return a service's events, oldest first."""
        return _items(self.get(f"/api/v1/services/{name}/events"))

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return a service's ended rollouts, newest first."""
        return _items(self.get(f"/api/v1/services/{name}/history"))

    def metrics(self) -> str:
        """Return all metrics as Prometheus reads them."""
        return self._client.get("/metrics").text

    def metric(self, line: str) -> float:
        """Return the value of the first line of a metric."""
        text = self.metrics()
        for found in text.splitlines():
            if found.startswith(line) and found[len(line)] in " {":
                return float(found.rsplit(" ", 1)[1])
        raise AssertionError(f"there is no metric {line}\n{text}")

    def cli(self, *arguments: str, within: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a verb of the command line against it."""
        return subprocess.run(
            [COMMAND, *arguments],
            check=False,
            env=self._environment() | {"HELIOSTAT_SERVER": self.server},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
        )

    # -- requests ---------------------------------------------------------------------------------

    def ask(self, path: str) -> httpx.Response:
        """Send one request through the gateway."""
        return httpx.get(self.gateway + path, timeout=30, trust_env=False)

    def revision_at(self, route: str) -> str:
        """Return the revision that answers; "" when none does."""
        with suppress(httpx.TransportError):
            answer = self.ask(f"{route}/who")
            return str(answer.json()["revision"]) if answer.status_code == 200 else ""
        return ""

    # -- waiting ----------------------------------------------------------------------------------

    def wait(self, name: str, within: float, what: str, **fields: Any) -> dict[str, Any]:
        """Wait until all these fields of a service's status have these values; return the status."""

        def reached() -> dict[str, Any]:
            found = self.status(name)
            return found if found and all(found.get(key) == value for key, value in fields.items()) else {}

        return wait_for(reached, within, f"{name}: {what}", shows=lambda: self.story(name))

    def wait_commit(self, sha: str, within: float = 15) -> None:
        """Wait until the status is that of a commit: before, it is at rest on the one before."""
        wait_for(
            lambda: str(self.get("/api/v1/status")["commit"]).endswith(sha), within, f"{sha} is read", shows=self.tail
        )

    def wait_condition(self, name: str, kind: str, value: str, within: float) -> dict[str, Any]:
        """Wait until a condition of a service has this value; return the status."""

        def reached() -> dict[str, Any]:
            found = self.status(name)
            entries = found.get("conditions", ())
            return found if any(entry["type"] == kind and entry["status"] == value for entry in entries) else {}

        return wait_for(reached, within, f"{name}: {kind} is {value}", shows=lambda: self.story(name))

    def wait_settled(self, name: str, revision: str, within: float = 120) -> dict[str, Any]:
        """Wait until `revision` (as its answers say) serves everything and its status is at rest."""

        def settled() -> dict[str, Any]:
            found = self.status(name)
            at_rest = (
                found
                and found["sync"] == "Synced"
                and found["health"] == "Healthy"
                and len({cell["revision"] for cell in found["cells"]}) == 1
            )
            return found if at_rest and self.revision_at(found["route"]) == revision else {}

        return wait_for(settled, within, f"{name} settled at {revision}", shows=lambda: self.story(name))

    def story(self, name: str) -> str:
        """Return what there is to know when something did not happen."""
        if not self.is_running():
            return self.tail()
        status = {key: value for key, value in self.status(name).items() if key != "conditions"}
        events: list[str] = []
        with suppress(AssertionError, httpx.TransportError):
            events = [f"{event['at']} {event['kind']} {event['message'][:200]}" for event in self.events(name)]
        problem = ""
        with suppress(AssertionError, httpx.TransportError):
            problem = str(self.get("/api/v1/status")["problem"])
        return "\n".join([json.dumps(status, indent=1), *events[-30:], f"problem: {problem}", self.tail(20)])


def _items(found: Any) -> list[dict[str, Any]]:
    """Accept a bare list or one under a single name."""
    if isinstance(found, dict):
        found = next(value for value in found.values() if isinstance(value, list))
    items: list[dict[str, Any]] = found
    return items


def _is_process(pid: int, started: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and int(fields[19]) == started


def _end(pid: int | None) -> None:
    if pid is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
