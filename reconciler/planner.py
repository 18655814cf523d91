"""Plans on the live state: what a proposed commit would do, and how it would go. Nothing is changed by asking."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from reconciler.errors import Stalled
from reconciler.planning.changes import changes, is_same_service
from reconciler.planning.live_state import live_state
from reconciler.planning.moment import Surroundings
from reconciler.planning.pace import pace_of
from reconciler.planning.preview import Question, involved, predict
from reconciler.planning.unlisted import warn_of_unlisted
from reconciler.ports import Store
from specs.desired import Commit, Desired, DesiredService, PackageRef, Unread
from specs.parse import SpecReader, Specs
from specs.planned import PlannedChange, PlannedHold, PlannedService
from specs.predicted import Ending, PredictedService, Prediction
from specs.unread import with_lost
from specs.world import World

FRESH = 15.0
"""Anybody may ask what is about to be done: after so many seconds it is worked out anew, however many ask."""

RESTS = 4
"""Times as long as it took to work out it holds at least: else who only asks could keep a core busy with it."""

REMEMBERED = 200
"""Events of a service that are looked through for how long its replicas took to start."""


class Commits(Protocol):
    """Commits of the daemon's repository, as they are written."""

    async def specs_at(self, commit: str) -> Specs:
        """Return what a commit wants. Raises Retry or Stalled."""

    def packaged(self, ref: PackageRef) -> Mapping[str, str]:
        """Return the files of a package, each with what tells its contents apart."""

    async def pin(self, commit: str) -> None:
        """Follow a commit instead of the branch until the branch contains it. Raises Retry or Stalled."""

    async def release(self) -> str | None:
        """Follow the branch again; return the commit that was followed instead, or None."""


class Packaged(Protocol):
    """Tells the files of a package."""

    def __call__(self, ref: PackageRef, /) -> Mapping[str, str]:
        """Return them, each with what tells its contents apart."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A packaged folder of a proposal: its content's id as Heliostat computes it."""

    path: str
    keep_folder: bool
    tree: str


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What is asked about: a commit that the repository has, or files of one that only the asker has."""

    commit: str
    subject: str = ""
    files: Mapping[str, bytes] | None = None
    folders: tuple[Folder, ...] = ()
    bases: Mapping[str, bytes] = field(default_factory=dict)
    """Files beyond those, which they take something from."""
    unread: tuple[Unread, ...] = ()
    """What stands among the files and cannot be read."""


@dataclass(frozen=True)
class _Folders:
    """The folders of a proposal, for `specs.parse.PackageIndex`."""

    known: Mapping[tuple[str, bool], str]

    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        return self.known.get((path, keep_folder))


@dataclass(kw_only=True)
class Planner:
    """One plan at a time: each costs as much as thousands of looks."""

    commits: Commits
    store: Store
    surroundings: Surroundings
    world: World | None = None
    """As the loop saw it last."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _own: tuple[float, PlannedChange] | None = None
    """What is about to be done anyway, and until which time of the event loop that may be told."""

    async def plan(self, proposal: Proposal | None) -> PlannedChange | None:
        """Return what a proposal would do; None while nothing was seen yet. Raises Retry or Stalled.

        None asks what the daemon itself is about to do with the commit that it has.
        """
        async with self._lock:
            world = self.world
            if world is None or world.desired is None:
                return None
            begun = asyncio.get_running_loop().time()
            if proposal is None and self._own is not None and begun < self._own[0]:
                return self._own[1]
            base = await self.commits.specs_at(world.desired.commit.sha)
            head = base if proposal is None else _known_as(await self._specs(proposal), base.desired, world.desired)
            change = await asyncio.to_thread(changes, base, head, self._packaged(proposal))
            wanted = world.desired if proposal is None else _as_live(head.desired, base.desired, world)
            change = warn_of_unlisted(change, wanted, world.memory.services)
            question = await self._question(world, wanted)
            found = _together(change, await asyncio.to_thread(predict, question))
            if proposal is None:
                ended = asyncio.get_running_loop().time()
                self._own = (ended + max(FRESH, RESTS * (ended - begun)), found)
            return found

    async def apply(self, base: str, commit: str, live: str) -> None:
        """Follow the commit of a plan, if the plan still holds. Raises Stalled saying why it does not, or Retry."""
        world = self.world
        if world is None or world.desired is None:
            raise Stalled("nothing was seen of the cluster or of Git yet; try again in a moment")
        if world.desired.commit.sha != base:
            now = world.desired.commit.sha[:12]
            raise Stalled(f"the plan is stale: it was made for commit {base[:12]}, and {now} is live. Make it anew")
        if live_state(world.memory) != live:
            raise Stalled("the plan is stale: the services have moved on since it was made. Make it anew")
        await self.commits.pin(commit)

    async def _specs(self, proposal: Proposal) -> Specs:
        if proposal.files is None:
            return await self.commits.specs_at(proposal.commit)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        commit = Commit(sha=proposal.commit, branch="", author="", subject=proposal.subject, committed_at=epoch)
        folders = _Folders({(folder.path, folder.keep_folder): folder.tree for folder in proposal.folders})
        return await asyncio.to_thread(
            SpecReader().read, commit, proposal.files, folders, proposal.bases.get, proposal.unread
        )

    def _packaged(self, proposal: Proposal | None) -> Packaged:
        has_files = proposal is None or proposal.files is None
        return self.commits.packaged if has_files else _no_files

    async def _question(self, world: World, desired: Desired) -> Question:
        paces, assumed = {}, []
        known = world.memory.services
        wanted = {service.name: service for service in desired.services}
        for name in sorted(involved(world, desired)):
            service = wanted[name] if name in wanted else known[name].wanted
            pace, text = pace_of(service, await self.store.events(service=name, limit=REMEMBERED))
            paces[name] = pace
            if name in wanted and (name not in known or not is_same_service(known[name].wanted, service)):
                assumed.append(text)
        return Question(
            world=world, desired=desired, surroundings=self.surroundings, paces=paces, assumed=tuple(assumed)
        )


def _no_files(_ref: PackageRef) -> Mapping[str, str]:
    return {}


def _known_as(head: Specs, base: Desired, live: Desired) -> Specs:
    """Return a proposal as the daemon would take it: what cannot be read in it is no removal, of the policy neither."""
    desired = with_lost(head.desired, base.services, live.policy_path)
    return replace(head, desired=desired if desired.is_policy_known else replace(desired, settings=live.settings))


def _as_live(head: Desired, base: Desired, world: World) -> Desired:
    """Return the proposal with what it leaves as it is in the form that is live: there, secrets are sealed.

    The secrets that a proposal names are not read for it: who proposes is not who may use them.
    """
    live = {service.name: service for service in world.desired.services} if world.desired else {}

    def taken(service: DesiredService) -> DesiredService:
        was = base.service(service.name)
        return live.get(service.name, service) if was is not None and is_same_service(was, service) else service

    return replace(head, services=tuple(taken(service) for service in head.services))


def _together(change: PlannedChange, prediction: Prediction) -> PlannedChange:
    """Return the change with its prediction; what the prediction finds held is on hold."""
    held = {one.name: one for one in prediction.services if one.ending is Ending.HELD}
    services = tuple(_with_holds(service, held.get(service.name)) for service in change.services)
    return replace(change, services=services, prediction=prediction)


def _with_holds(service: PlannedService, found: PredictedService | None) -> PlannedService:
    if found is None or service.holds:
        return service
    lasting = (hold for hold in found.holds if hold.lasts is None)
    holds = tuple(PlannedHold(reason=hold.reason, message=hold.message) for hold in lasting)
    return replace(service, holds=holds)
