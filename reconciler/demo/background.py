"""The daemon as a process of its own, exactly as a user would run it, and everything it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.state_folder import SERVERS, default_folder
from reconciler.demo.options import HOST, Ports
from reconciler.demo.repository import BRANCH, SPEC_PATH

ENTRY = (sys.executable, "-m", "reconciler.cli.main")
"""`heliostat` of this very installation, wherever the script lies."""

STOP_SECONDS = 10.0
"""The daemon ends open streams and its git calls first."""

GLANCE = timedelta(milliseconds=200)
TAIL_LINES = 15


class Daemon:
    """`heliostat run` on the demo's repository and cluster; its log goes to a file."""

    def __init__(self, *, repository: Path, state: Path, log: Path, ports: Ports) -> None:
        """Nothing runs yet."""
        self._repository = repository
        self._state = state
        self._ports = ports
        self._child: subprocess.Popen[bytes] | None = None
        self.log = log

    @property
    def command(self) -> list[str]:
        """Return the command line, as a user would type it after `heliostat`."""
        options = {
            "--repo": str(self._repository),
            "--branch": BRANCH,
            "--path": SPEC_PATH,
            "--ray": f"http://{HOST}:{self._ports.ray}",
            "--listen": f"{HOST}:{self._ports.page}",
            "--gateway": f"{HOST}:{self._ports.gateway}",
            "--state": str(self._state),
            "--cluster": "demo",
            # One person's own repository: whoever amends a commit here means it.
            "--force-push": "allow",
            "--log-format": "console",
        }
        return ["run", *(word for option in options.items() for word in option)]

    def __enter__(self) -> Self:
        """Start it, in a session of its own: Ctrl-C is for the demo, which ends the daemon in its turn."""
        # Settings of the user's own daemon must not leak into this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HELIOSTAT_")}
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [*ENTRY, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it and the HAProxy that it leaves serving, and forget where its token was."""
        if self._child is not None:
            _end(self._child)
        end_gateways(self._state / "gateway")
        _forget_pointers(self._state)

    async def watch(self) -> None:
        """Return when the daemon has ended by itself, which it never should."""
        clock = SystemClock()
        while self._child is not None and self._child.poll() is None:
            await clock.sleep(GLANCE)

    def tail(self) -> str:
        """Return the last lines of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        except OSError:
            return ""


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def end_gateways(folder: Path) -> None:
    """Kill each HAProxy that works in `folder`: it outlives its daemon on purpose, but not a demo."""
    deadline = time.monotonic() + STOP_SECONDS
    while (found := gateways(folder)) and time.monotonic() < deadline:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def gateways(folder: Path) -> frozenset[int]:
    """Return the processes whose executable is HAProxy and whose working directory is `folder`."""
    wanted = folder.resolve()
    found = set()
    for process in Path("/proc").iterdir():
        # Processes end while we look, and those of other users cannot be read.
        with suppress(OSError):
            works_here = process.name.isdecimal() and (process / "cwd").readlink() == wanted
            if works_here and (process / "exe").readlink().name == "haproxy":
                found.add(int(process.name))
    return frozenset(found)


def _forget_pointers(state: Path) -> None:
    """Remove the notes by which the command line finds this daemon's token."""
    wanted = str(state.resolve())
    for pointer in (default_folder(os.environ) / SERVERS).glob("*"):
        with suppress(OSError):
            if pointer.read_text().strip() == wanted:
                pointer.unlink()
