"""What `heliostat doctor` looks at. Each check finds something and, where it is not fine, says how to mend it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path

import httpx

from reconciler.adapters.git_command import GitFailed, in_thread
from reconciler.adapters.git_location import locate
from reconciler.adapters.git_mirror import Mirror
from reconciler.adapters.nodes import RayNodes
from reconciler.adapters.ray_rest import RayRest
from reconciler.adapters.serve import RayServe
from reconciler.adapters.serve_check import Concern
from reconciler.errors import PortError
from reconciler.gateway.process import binary_environment, find_binary
from reconciler.observe import is_direct
from reconciler.ports import ServeSeen
from reconciler.settings import GatewayMode, Settings

RAY_KNOWN = (2, 60)
"""The Ray version that the facts Heliostat rests on were tried with."""
SKEW_ALLOWED = timedelta(seconds=5)
ROOM_NEEDED = 200 * 1024**2
"""Bytes: below this a save may fail soon, and the daemon stops acting."""
GIT_LIMIT = timedelta(seconds=15)


class Mark(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; `mend` says what to do about it, "" when it is fine."""

    check: str
    mark: Mark
    text: str
    mend: str = ""


Check = Callable[[Settings], Awaitable[list[Finding]]]


async def examine(settings: Settings) -> list[Finding]:
    """Run all checks side by side; those of Serve and nodes only where Ray answers at all."""
    reached = await ray(settings)
    of_ray = () if any(finding.mark is Mark.FAILED for finding in reached) else (serve, nodes)
    found = await asyncio.gather(*(check(settings) for check in (*of_ray, git, state, haproxy, ports)))
    return [*reached, *(finding for findings in found for finding in findings)]


async def ray(settings: Settings) -> list[Finding]:
    """Reach Ray's dashboard; compare its version and its clock."""
    headers = {"Authorization": f"Bearer {settings.ray_token.reveal()}"} if settings.ray_token else {}
    try:
        async with httpx.AsyncClient(timeout=5, trust_env=False, headers=headers) as client:
            answer = await client.get(f"{settings.ray}/api/version")
        version = str(answer.raise_for_status().json()["ray_version"])
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        mend = "give Ray's token with --ray-token-file or HELIOSTAT_RAY_TOKEN" if status in (401, 403) else ""
        return [_failed("ray", f"{settings.ray} answers {status}", mend or "check that --ray is Ray's dashboard")]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        mend = "start Ray (`ray start --head`, or `heliostat demo`), or name its dashboard with --ray"
        return [_failed("ray", f"no Ray dashboard answers at {settings.ray}", mend)]
    return [_version(version), _clock(answer.headers.get("date", ""))]


def _version(version: str) -> Finding:
    """Tell of versions that are newer than what was tried; too old ones are a concern of the Serve check."""
    major_minor = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if major_minor <= RAY_KNOWN:
        return _fine("ray", f"Ray {version} answers")
    known = ".".join(map(str, RAY_KNOWN))
    mend = f"go back to Ray {known} if something behaves oddly: Heliostat is tested with it"
    return Finding(check="ray", mark=Mark.WARNING, text=f"Ray {version} answers, newer than {known}", mend=mend)


def _clock(date: str) -> Finding:
    """Compare clocks by the Date header, which counts whole seconds."""
    try:
        skew = time.time_ns() / 1e9 - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return Finding(check="clock", mark=Mark.SKIPPED, text="Ray does not tell its time")
    if abs(skew) <= SKEW_ALLOWED.total_seconds():
        return _fine("clock", "this machine and Ray's head agree on the time")
    mend = "let both keep time by NTP: deadlines and pauses are counted here"
    return Finding(check="clock", mark=Mark.WARNING, text=f"the clocks are {abs(skew):.0f} s apart", mend=mend)


async def serve(settings: Settings) -> list[Finding]:
    """Read Serve, and see whether replicas take requests themselves."""
    async with _rest(settings) as rest:
        adapter = RayServe(rest, nodes=RayNodes(rest))
        try:
            seen, concerns = await adapter.read(), await adapter.check()
        except PortError as error:
            return [_failed("serve", error.reason, "see the finding about Ray first")]
    applications = f"{len(seen.cells)} application{'' if len(seen.cells) == 1 else 's'}"
    runs = f"Ray Serve runs {applications}" if seen.running else "does not run yet; the first service starts it"
    return [_fine("serve", runs), *map(_concern, concerns), *_ingress(seen, settings.gateway_mode)]


def _concern(concern: Concern) -> Finding:
    mark = Mark.FAILED if concern.is_fatal else Mark.WARNING
    return Finding(check=concern.subject, mark=mark, text=concern.text, mend=concern.mend)


def _ingress(seen: ServeSeen, mode: GatewayMode) -> list[Finding]:
    direct = is_direct(seen)
    if direct is None:
        text = "cannot be told before an application runs"
        return [Finding(check="direct ingress", mark=Mark.SKIPPED, text=text)]
    if direct:
        return [_fine("direct ingress", "replicas take requests themselves")]
    mend = "start Ray's head and workers with RAY_SERVE_ENABLE_DIRECT_INGRESS=1: several times the throughput"
    mark = Mark.FAILED if mode is GatewayMode.DIRECT else Mark.WARNING
    text = "off: requests go through Serve's proxies, and shares are less exact"
    return [Finding(check="direct ingress", mark=mark, text=text, mend=mend)]


async def nodes(settings: Settings) -> list[Finding]:
    """Count nodes and zones."""
    async with _rest(settings) as rest:
        try:
            alive = [node for node in await RayNodes(rest).read() if node.is_alive]
        except PortError as error:
            return [_failed("nodes", error.reason, "see the finding about Ray first")]
    if not alive:
        return [_failed("nodes", "no node is alive", "start Ray nodes")]
    zones = sorted({node.zone for node in alive if node.zone})
    text = f"{len(alive)} alive, {sum(node.is_draining for node in alive)} draining"
    if settings.zone is not None and settings.zone not in zones:
        told = f"no node is in {settings.zone}, the gateway's own zone; there are {', '.join(zones) or 'none'}"
        mend = "give --zone as the nodes near the gateway are labelled with ray.io/availability-zone"
        return [_fine("nodes", text), Finding(check="zones", mark=Mark.WARNING, text=told, mend=mend)]
    if len(zones) > 1:
        return [_fine("nodes", text), _fine("zones", ", ".join(zones))]
    mend = "label nodes with ray.io/availability-zone (`ray start --labels`) to have replicas spread over zones"
    told = f"only {zones[0]}" if zones else "no node tells its zone"
    return [_fine("nodes", text), Finding(check="zones", mark=Mark.WARNING, text=told, mend=mend)]


async def git(settings: Settings) -> list[Finding]:
    """Ask the repository for its branch."""
    try:
        version = await asyncio.to_thread(_told_by, "git", "--version")
    except (OSError, subprocess.SubprocessError):
        return [_failed("git", "git is not installed", "install git")]
    found = [_fine("git", version.strip())]
    if not settings.repo:
        return [*found, Finding(check="repository", mark=Mark.SKIPPED, text="none given", mend="give --repo URL")]
    return [*found, await _repository(settings)]


async def _repository(settings: Settings) -> Finding:
    shown = settings.repo_shown
    with tempfile.TemporaryDirectory(prefix="heliostat-doctor-") as folder:
        try:
            location = locate(settings.repo)
            mirror = Mirror(Path(folder) / "mirror", location, settings.branch)
            await in_thread(mirror.prepare)
            tip = await in_thread(mirror.remote_tip, GIT_LIMIT)
        except GitFailed as error:
            mend = "check the address, the branch and this user's access: `git ls-remote` must work without a prompt"
            return _failed("repository", f"{shown}: {error.text}", mend)
        except PortError as error:
            return _failed("repository", error.reason, "correct --repo or --branch")
    return _fine("repository", f"{shown} has {settings.branch} at {tip[:8]}")


async def state(settings: Settings) -> list[Finding]:
    """Look at the state folder's room and permissions."""
    folder = settings.state
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        return [_failed("state", f"{parent} is not writable", "give it to this user, or choose another --state")]
    found = []
    free = shutil.disk_usage(parent).free
    told = f"{free / 1024**3:.1f} GiB free for {folder}"
    if free < ROOM_NEEDED:
        found.append(_failed("disk", told, "make room: without it nothing can be saved, and nothing is changed on Ray"))
    else:
        found.append(_fine("disk", told))
    return [*found, _permissions(folder)]


def _permissions(folder: Path) -> Finding:
    if not folder.exists():
        return _fine("permissions", "no state yet")
    if not folder.stat().st_mode & 0o077:
        return _fine("permissions", f"only this user can read {folder}")
    mend = f"chmod 700 {folder}: the API's token and your code are in it"
    return Finding(check="permissions", mark=Mark.WARNING, text=f"others can read {folder}", mend=mend)


async def haproxy(settings: Settings) -> list[Finding]:
    """Run HAProxy's binary once."""
    try:
        binary = find_binary(None)
    except PortError as error:
        return [_failed("haproxy", error.reason, "pip install 'ray[serve]' brings it")]
    try:
        version = await asyncio.to_thread(_told_by, str(binary), "-v", environment=binary_environment(binary))
    except (OSError, subprocess.SubprocessError) as error:
        return [_failed("haproxy", f"{binary} does not run: {error}", "install it for this machine's architecture")]
    return [_fine("haproxy", " ".join(version.split()[:3]))]


async def ports(settings: Settings) -> list[Finding]:
    """Tell whether a daemon runs here, or whether one could listen."""
    try:
        async with httpx.AsyncClient(timeout=3, trust_env=False) as client:
            answer = await client.get(f"{settings.server}/api/v1/status")
            cluster = answer.raise_for_status().json()
            problem = str(cluster["problem"])
    except httpx.ConnectError:
        mend = "start one with `heliostat run`"
        return [Finding(check="daemon", mark=Mark.SKIPPED, text=f"none runs at {settings.server}", mend=mend)]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        mend = "stop it, or choose another --listen"
        return [_failed("daemon", f"something else than Heliostat listens on {settings.listen}", mend)]
    if problem:
        return [_failed("daemon", f"it runs at {settings.server}, but: {problem}", "see the other findings")]
    return [_fine("daemon", f"it runs at {settings.server} and sees everything")]


def _told_by(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a program that only tells its version."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    return done.stdout


def _rest(settings: Settings) -> RayRest:
    return RayRest(settings.ray, token=settings.ray_token.reveal() if settings.ray_token else None)


def _fine(check: str, text: str) -> Finding:
    return Finding(check=check, mark=Mark.OK, text=text)


def _failed(check: str, text: str, mend: str) -> Finding:
    return Finding(check=check, mark=Mark.FAILED, text=text, mend=mend)
