"""The daemon as a process of its own, exactly as a user would run it, and everything it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler.adapters.clock import SystemClock
from reconciler.demo.options import HOST, Ports
from reconciler.demo.repository import BRANCH, SPEC_PATH
from reconciler.demo.warden import GOOD_BYE, STOP_SECONDS

ENTRY = (sys.executable, "-m", "reconciler.cli.main")
"""`heliostat` of this very installation, wherever the script lies."""

WARDEN = (sys.executable, "-m", "reconciler.demo.warden")

WARDEN_SECONDS = 3 * STOP_SECONDS
"""It waits for the daemon, then for HAProxy; beyond this something is wrong with it."""

GLANCE = timedelta(milliseconds=200)
TAIL_LINES = 15


class Daemon:
    """`heliostat run` on the demo's repository and cluster; its log goes to a file.

    A warden between the demo and the daemon sees to it that neither the daemon nor its HAProxy outlives the
    demo, even one that is killed. `remove` is the folder that is to go then, too.
    """

    def __init__(self, *, repository: Path, state: Path, log: Path, ports: Ports, remove: Path | None = None) -> None:
        """Nothing runs yet."""
        self._repository = repository
        self._state = state
        self._ports = ports
        self._remove = remove
        self._warden: subprocess.Popen[bytes] | None = None
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
            "--gateway-keeper": "off",  # It would outlive the demo.
            "--log-format": "console",
        }
        return ["run", *(word for option in options.items() for word in option)]

    def __enter__(self) -> Self:
        """Start it, in a session of its own: Ctrl-C is for the demo, which ends the daemon in its turn."""
        # Settings of the user's own daemon must not leak into this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HELIOSTAT_")}
        remove = str(self._remove) if self._remove else ""
        with self.log.open("ab") as log:
            self._warden = subprocess.Popen(
                [*WARDEN, str(self._state), remove, *ENTRY, *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it and the HAProxy that it leaves serving, and forget where its token was."""
        warden = self._warden
        if warden is None or warden.stdin is None:
            return
        with suppress(BrokenPipeError), warden.stdin:
            warden.stdin.write(GOOD_BYE)
        try:
            warden.wait(WARDEN_SECONDS)
        except subprocess.TimeoutExpired:
            warden.kill()
            warden.wait()

    async def watch(self) -> None:
        """Return when the daemon has ended by itself, which it never should."""
        clock = SystemClock()
        while self._warden is not None and self._warden.poll() is None:
            await clock.sleep(GLANCE)

    def tail(self) -> str:
        """Return the last lines of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        except OSError:
            return ""
