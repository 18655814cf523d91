"""The invariants of the design, checked at every effect of the daemon and after every turn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from specs.cells import CellKey, parse_cell_name
from specs.desired import ClusterSettings, DesiredService
from specs.effects import PostQuestion, PutServeConfig, SaveMemory
from specs.memory import CellMemory, Event, Rollout
from specs.routes import FULL, RouteTable, ServiceRoute
from tests.sim.fake_gates import confirmed_weight
from tests.sim.requests import Requests
from tests.sim.serve_instance import SimApplication
from tests.sim.starts import Returns, Starts
from tests.sim.truth import Truth, first_count, target_after

if TYPE_CHECKING:
    from reconciler.loop import Tick
    from tests.sim.world import Simulation

PATIENCE = 3
"""Turns in a row that something which must happen at once may take: orders and changes of course are taken alone."""


class InvariantBroken(AssertionError):
    """One of I1-I9 does not hold; the text begins with its name."""


class Watch:
    """Sees every effect before it is done. Raises InvariantBroken."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self.truth = Truth(sim)
        self.requests = Requests(sim)
        self.is_blind = False
        self.effects = 0
        self.log: list[str] = []
        self.events: list[Event] = []
        self.created: set[str] = set()
        """Applications that the daemon created."""
        self.removed: set[str] = set()
        """Applications that the daemon took out of Serve; their names are never used again."""
        self.barred: set[tuple[str, str]] = set()
        """(service, revision) that were rolled back and neither released nor replaced by a commit since."""
        self.ever_barred: set[tuple[str, str]] = set()
        self.starts = Starts()
        self.returns = Returns()
        self.overruled: set[str] = set()
        """Services whose running rollout a person took past a gate."""
        self.most_moving = 0
        self.further: list[Callable[[Tick], None]] = []
        """What a story checks after every turn besides the invariants."""
        self._wanted: dict[str, str] = {}
        self._told: dict[str, dict[str, int]] = {}
        """Weights as the gateway was last told: one that forgot them is told again, which raises nothing."""
        self._routed_once: set[str] = set()
        self._silent: Counter[str] = Counter()
        self._outdated: Counter[str] = Counter()
        self._weightless_since: dict[str, datetime] = {}
        self._excused_until: datetime | None = None

    # -- what is seen ------------------------------------------------------------------------------------

    def weights(self, service: str) -> dict[str, int]:
        """Return basis points per revision as routed."""
        return _by_revision(self._sim.gateway.table.service(service))

    def applications(self, service: str) -> list[tuple[CellKey, SimApplication]]:
        return self.truth.applications(service)

    def note(self, text: str) -> None:
        self.effects += 1
        self.log.append(f"{self._sim.clock.now():%H:%M:%S} {text}")

    def pushed(self, services: Iterable[DesiredService]) -> None:
        """A commit that wants another revision of a service ends its quarantines."""
        for service in services:
            if self._wanted.get(service.name) != service.revision.id:
                self.barred = {(name, rev) for name, rev in self.barred if name != service.name}
                self._wanted[service.name] = service.revision.id
        self.starts.pushed(services)
        self.returns.stirred()
        names = ", ".join(f"{service.name} {service.revision.id}" for service in services)
        self.log.append(f"{self._sim.clock.now():%H:%M:%S} -- push {names}")

    def excused(self) -> None:
        """Replicas are taken away by an accident now: requests on them are not the daemon's fault."""
        self.requests.forget()
        self.returns.stirred()

    # -- effects -----------------------------------------------------------------------------------------

    def saved(self, change: SaveMemory) -> None:
        self.note("save")
        for event in change.events:
            self.events.append(event)
            self.log.append(f"    {event.service}: {event.kind} {event.message[:90]}")
            if event.kind == "Ordered":
                self.starts.moved_by_people(event.service)
                self.returns.stirred()
                if event.message.startswith("promote --full"):  # Also past gates that were not asked yet.
                    self.overruled.add(event.service)
            if event.kind == "RolledBack":
                self.barred.add((event.service, event.revision))
                self.ever_barred.add((event.service, event.revision))
            elif event.kind == "RolloutStarted":
                self.overruled.discard(event.service)
                self._sim.gates.yes = {told for told in self._sim.gates.yes if told[0] != event.service}
            elif event.kind == "GaveWay":
                self.returns.stirred()  # Whose turn it is gets its cells again.
            elif event.kind == "GateOverruled":
                self.overruled.add(event.service)
            elif event.kind == "Released":
                self.barred.discard((event.service, event.revision))

        for memory in change.services:
            again = self.starts.saved(memory)
            _must(not again, f"I6: {memory.name} starts {again} again though nobody asked for it: ping-pong")
            again = self.returns.saved(memory, self._sim.clock.now())
            _must(not again, f"I9: {again} is made where one was retired, again and again: it goes to and fro")

    def before_route(self, table: RouteTable) -> None:
        self.note("route " + ", ".join(f"{row.service} {_by_revision(row)}" for row in table.services))
        self._check_sight("I4")
        for row in table.services:
            self._check_saved(row)
            leaving = [cell.cell for cell in row.cells if cell.weight and cell.cell in self.removed]
            _must(not leaving, f"I3: {row.service} routes to {leaving}, which it is tearing down")
            self._check_gates(row)
            self._check_weights(row)
            self._check_left(row)
            self._check_header(row)
            self._check_preference(row)

    def before_question(self, question: PostQuestion) -> None:
        """A question is asked when its intent is saved, and never again once its answer is."""
        self.log.append(f"{self._sim.clock.now():%H:%M:%S} ask {question.key}")
        memory = self._sim.known(question.service)
        saved = next((call for call in memory.gates if call.key == question.key), None) if memory else None
        _must(saved is not None, f"G2: {question.key} is asked before the intent is saved")
        assert saved is not None
        _must(not saved.is_settled, f"G2: {question.key} is asked again after its answer was saved")

    def before_scale(self, application: str, deployment: str, target: int) -> None:
        self.note(f"scale {application} {deployment} to {target}")
        self._check_sight("I4")
        app = self._sim.serve.instance.applications.get(application)
        key = parse_cell_name(application)
        if app is None or key is None or deployment not in app.deployments:
            return
        before = app.deployments[deployment].target
        saved = next((cell.counts.get(deployment) for cell in self._cells(key)), None)
        _must(saved == target, f"I8: {application} is scaled to {target} and {saved} is saved: a crash would forget it")
        if target > before:
            self._check_barred(key, f"scales {deployment} up")
            self._check_ceiling(key.service, deployment, {application: target})
        elif target < before:
            self._check_floor(key.service, {(application, deployment): target})

    def before_put(self, change: PutServeConfig) -> Callable[[], None]:
        """Check a PUT; return the check of what is there after it."""
        ours = ", ".join(sorted(application.name for application in change.applications))
        self.note(f"put {ours} without {', '.join(sorted(change.removed)) or 'any'}")
        self._check_sight("I4")
        instance = self._sim.serve.instance
        lowered: dict[tuple[str, str], int] = {}
        for application in change.applications:
            self._check_entry(application.name, json.loads(application.config), lowered)
        for service in {key.service for name, _ in lowered if (key := parse_cell_name(name))}:
            self._check_floor(service, {where: count for where, count in lowered.items() if _is_of(where[0], service)})
        for name in change.removed & instance.applications.keys():
            self._check_removal(name)
        self.removed |= change.removed & instance.applications.keys()
        self.created |= {application.name for application in change.applications}
        foreign = {name: app.config for name, app in instance.applications.items() if name not in self.created}
        gone = set(instance.applications) - {application.name for application in change.applications} - change.removed
        ours_dropped = sorted(gone & self.created)
        _must(not ours_dropped, f"I7: {ours_dropped} are ours and neither declared nor removed")
        top_level = dict(instance.top_level)
        return lambda: self._check_foreign(foreign, top_level)

    def _check_entry(self, name: str, entry: Mapping[str, Any], lowered: dict[tuple[str, str], int]) -> None:
        app, key = self._sim.serve.instance.applications.get(name), parse_cell_name(name)
        if key is None:
            return
        if app is None:
            self._check_creation(key, entry)
            return
        listed = {deployment["name"]: deployment for deployment in entry.get("deployments", ())}
        for deployment in app.deployments.values():
            after = target_after(deployment, listed.get(deployment.name, {}))
            if after > deployment.target and not app.is_deleting:
                self._check_ceiling(key.service, deployment.name, {name: after})
            elif after < deployment.target and not app.is_deleting:
                lowered[name, deployment.name] = after

    def _check_creation(self, key: CellKey, entry: Mapping[str, Any]) -> None:
        if key.name in self.created:
            return  # It is put back: somebody took it away, its place is its own.
        self._check_barred(key, "is created")
        memory = self._sim.known(key.service)
        saved = memory is not None and any(cell.key == key for cell in memory.cells)
        _must(saved, f"I8: {key.name} is created before the intent is saved: a crash now would lose it")
        cells = [c for c in memory.cells_of(key.revision) if not c.is_baseline] if memory else []
        doubled = any(c.key == key for c in cells) and any(
            c.key != key and c.key.site == key.site and not c.failure for c in cells
        )
        _must(not doubled, f"I5: {key.name} is created though {key.revision} runs already")
        for deployment in entry.get("deployments", ()):
            count = first_count(deployment)
            if count is not None:
                self._check_ceiling(key.service, deployment["name"], {key.name: count})

    # -- the invariants ----------------------------------------------------------------------------------

    def _check_sight(self, name: str) -> None:
        _must(not self.is_blind, f"{name}: acts on a world that it does not see whole ({self.log[-1]})")

    def _check_saved(self, row: ServiceRoute) -> None:
        """I8: weights are routed that are saved; after a crash the next daemon goes on from exactly those."""
        memory = self._sim.known(row.service)
        saved = memory.weights if memory else {}
        other = {cell.cell: cell.weight for cell in row.cells if cell.weight != saved.get(cell.cell, 0)}
        _must(not other, f"I8: {row.service} is routed {other} before that is saved: a crash now would forget it")

    def _check_weights(self, row: ServiceRoute) -> None:
        """I1: a raise needs ready replicas, unless somebody else's share is lost."""
        memory = self._sim.known(row.service)
        _must(memory is not None, f"I1: {row.service} is routed and not remembered")
        assert memory is not None
        before, after = self._told.get(row.service, {}), _by_revision(row)
        self._told[row.service] = after
        lost = [rev for rev, weight in before.items() if weight and not self.truth.is_serving(row.service, rev)]
        if sum(before.values()) == 0 and row.service in self._routed_once:
            lost = ["all"]  # It comes back after its removal had begun.
        if sum(after.values()):
            self._routed_once.add(row.service)
        for revision, weight in after.items():
            if weight <= before.get(revision, 0):
                continue
            if lost:
                fits = self.truth.is_serving(row.service, revision)
                _must(fits, f"I1: {row.service} gives {weight} to {revision}, which does not answer")
                continue
            share = self.truth.ready_share(memory.wanted, revision)
            _must(weight <= share, f"I1: {row.service} raises {revision} to {weight}, its ready share is {share}")
            barred = (row.service, revision) in self.barred and memory.stable not in (None, revision)
            _must(not barred, f"I6: {row.service} raises {revision} to {weight}, which was rolled back")

    def _check_preference(self, row: ServiceRoute) -> None:
        """I1: a gateway may prefer its zone only where that takes nothing from a revision, and none is compared."""
        memory = self._sim.known(row.service)
        if memory is None or not row.may_prefer_zone:
            return
        routed = {revision for revision, weight in _by_revision(row).items() if weight}
        _must(routed <= {memory.stable}, f"I1: {row.service} may prefer a zone while {sorted(routed)} have shares")
        _must(memory.candidate is None, f"I1: {row.service} may prefer a zone in a rollout")
        _must(memory.baking is None, f"I1: {row.service} may prefer a zone while its new revision is watched")

    def _check_left(self, row: ServiceRoute) -> None:
        """I2: a cell that answers is left, its revision staying, when the others are enough without it."""
        old = self._sim.gateway.table.service(row.service)
        before = {cell.cell: cell.weight for cell in old.cells} if old else {}
        after = {cell.cell: cell.weight for cell in row.cells}
        stays = {cell.split(".")[1] for cell, weight in after.items() if weight}
        apps = {key.name: app for key, app in self.applications(row.service)}
        left = [
            cell
            for cell, weight in after.items()
            if not weight and before.get(cell) and cell.split(".")[1] in stays and self._answers(cell, apps.get(cell))
        ]
        for deployment in {name for cell in left for name in apps[cell].deployments}:
            found = {cell: app.deployments.get(deployment) for cell, app in apps.items()}
            serving = {cell: len(self.truth.serving(cell, one)) for cell, one in found.items() if one is not None}
            enough = sum(count for cell, count in serving.items() if after.get(cell))
            had = sum(count for cell, count in serving.items() if before.get(cell))
            floor = self.truth.floor(self._sim.memory(row.service).wanted, deployment)
            text = f"I2: {left} of {row.service} lose their requests, {enough} of {floor} serving replicas are left"
            _must(enough >= min(floor, had), text)

    def _answers(self, cell: str, app: SimApplication | None) -> bool:
        names = app.deployments.values() if app is not None else ()
        return bool(names) and all(self.truth.serving(cell, one) for one in names)

    def _check_header(self, row: ServiceRoute) -> None:
        """I6: a header leads to the revision that is rolled out, never to one that was taken back."""
        if row.header is None:
            return
        memory, key = self._sim.memory(row.service), parse_cell_name(row.header.cell)
        _must(key is not None and key.revision == memory.candidate, f"I6: a header leads to {row.header.cell}")
        _must(
            row.header.cell in {cell.cell for cell in row.cells}, f"I1: {row.header.cell} is asked for without a lane"
        )

    def _check_gates(self, row: ServiceRoute) -> None:
        """G1: the candidate's weight does not rise past a step whose gates did not all say yes."""
        memory = self._sim.known(row.service)
        candidate, rollout = (memory.candidate, memory.rollout) if memory else (None, None)
        if memory is None or candidate is None or rollout is None or rollout.is_fast or memory.stable is None:
            return
        before, after = self._told.get(row.service, {}), _by_revision(row)
        lost = any(weight and not self.truth.is_serving(row.service, rev) for rev, weight in before.items())
        if row.service in self.overruled or lost or sum(before.values()) == 0:
            return
        limit = confirmed_weight(memory, candidate, self._sim.gates.yes)
        raised = after.get(candidate, 0) > max(before.get(candidate, 0), limit)
        _must(not raised, f"G1: {row.service} raises {candidate} to {after.get(candidate)}, confirmed is {limit}")

    def _check_ceiling(self, service: str, deployment: str, targets: Mapping[str, int]) -> None:
        """I2: what raises a count must fit below target + maxSurge, with all that still stops."""
        memory = self._sim.memory(service)
        ceiling = self.truth.ceiling(memory.wanted, deployment)
        live = self.truth.projected(service, deployment, targets)
        _must(live <= ceiling, f"I2: {deployment} of {service} goes to {live} of at most {ceiling} by {dict(targets)}")

    def _check_floor(self, service: str, lowered: Mapping[tuple[str, str], int]) -> None:
        """I2: what lowers the count of a routed revision leaves target - maxUnavailable serving."""
        memory = self._sim.memory(service)
        row = self._sim.gateway.table.service(service)
        routed = {cell.cell for cell in row.cells if cell.weight} if row else set()
        for deployment in {name for _, name in lowered}:
            serving, losses = 0, 0
            for key, app in self.applications(service):
                found = app.deployments.get(deployment)
                if found is None or key.name not in routed or not self._answers(key.name, app):
                    continue  # What a cell has that lacks another deployment serves nobody.
                serving += len(self.truth.serving(key.name, found))
                if (key.name, deployment) in lowered:
                    unstarted = sum(1 for replica in found.replicas if replica.state == "STARTING")
                    losses += max(0, found.target - lowered[key.name, deployment] - unstarted)
            floor = self.truth.floor(memory.wanted, deployment)
            text = f"I2: {deployment} of {service} shrinks to {serving - losses} serving, at least {floor} are owed"
            _must(losses == 0 or serving - losses >= floor, text)

    def _cells(self, key: CellKey) -> Iterable[CellMemory]:
        memory = self._sim.known(key.service)
        return (cell for cell in memory.cells if cell.key == key) if memory else ()

    def _check_removal(self, name: str) -> None:
        """I3: an application goes when it has no weight and nothing in flight, or its requests had their time."""
        app, key = self._sim.serve.instance.applications[name], parse_cell_name(name)
        _must(name in self.created and key is not None, f"I7: removes {name}, which is not ours")
        assert key is not None
        if app.is_deleting:
            return
        row = self._sim.gateway.table.service(key.service)
        weight = next((cell.weight for cell in row.cells if cell.cell == name), 0) if row else 0
        _must(weight == 0, f"I3: removes {name}, which still has weight {weight}")
        since = self._weightless_since.get(name)
        longest = _longest_request(app.config)
        waited = since is not None and (self._sim.clock.now() - since).total_seconds() >= longest
        in_flight = self._sim.gateway.in_flight.get(name, 0)
        _must(in_flight == 0 or waited, f"I3: removes {name} with {in_flight} requests in flight")

    def _check_barred(self, key: CellKey, does: str) -> None:
        memory = self._sim.known(key.service)
        if memory is not None and memory.stable == key.revision:
            return  # What serves goes on when the way back from it fails.
        _must((key.service, key.revision) not in self.barred, f"I6: {key.name} {does} though it was rolled back")

    def _check_foreign(self, foreign: Mapping[str, Any], top_level: Mapping[str, Any]) -> None:
        instance = self._sim.serve.instance
        for name, config in foreign.items():
            app = instance.applications.get(name)
            kept = app is not None and not app.is_deleting and app.config == config
            _must(kept, f"I7: {name} is not ours and did not survive a PUT")
        lost = {key for key, value in top_level.items() if value is not None and instance.top_level.get(key) != value}
        _must(not lost, f"I7: the top-level fields {sorted(lost)} did not survive a PUT")

    # -- between effects -----------------------------------------------------------------------------------

    def before_tick(self) -> None:
        """Time has passed: replicas got ready, requests came and ended."""
        self.truth.look()
        self.returns.looked([(n.id, n.is_alive, n.is_draining) for n in self._sim.nodes.nodes.values()])
        now = self._sim.clock.now()
        weights = {cell.cell: cell.weight for row in self._sim.gateway.table.services for cell in row.cells}
        for name in self.created:
            if weights.get(name, 0) > 0:
                self._weightless_since.pop(name, None)
            else:
                self._weightless_since.setdefault(name, now)
        self.requests.step()

    def after_tick(self) -> None:
        tick = self._sim.tick
        if tick is not None:
            going = [memory.rollout for memory in tick.compiled.memory.services.values() if memory.rollout]
            self.most_moving = max(self.most_moving, sum(1 for rollout in going if not _waits_apart(rollout)))
            for check in self.further:
                check(tick)
        if self._sim.is_hindered:
            return
        for row in self._sim.gateway.table.services:
            self._check_broken(row)
        self._check_pruned()
        self._check_newest()
        self.requests.check()

    def _check_broken(self, row: ServiceRoute) -> None:
        """I1: what does not answer loses its weight at once, when somebody else answers."""
        weights = _by_revision(row)
        serving = {revision: self.truth.is_serving(row.service, revision) for revision in weights}
        bad = [revision for revision, weight in weights.items() if weight and not serving[revision]]
        others = [revision for revision in weights if serving[revision]]
        self._silent[row.service] = self._silent[row.service] + 1 if bad and others else 0
        text = f"I1: {bad} of {row.service} do not answer and keep their weight though {others} do"
        _must(self._silent[row.service] <= PATIENCE, text)

    def _check_newest(self) -> None:
        """I5: no rollout goes on that a newer commit does not want."""
        desired = self._sim.tick.world.desired if self._sim.tick else None
        for service in desired.services if desired else ():
            memory = self._sim.known(service.name)
            if memory is None or service.suspend or memory.pin is not None:
                continue
            old = memory.candidate not in (None, service.revision.id)
            waits = any(cell.failure for cell in memory.cells_of(service.revision.id))
            waits = waits or (memory.rollout is not None and memory.rollout.is_parked)
            self._outdated[service.name] = self._outdated[service.name] + 1 if old and not waits else 0
            text = f"I5: {service.name} goes on to {memory.candidate}, its commit wants {service.revision.id}"
            _must(self._outdated[service.name] <= PATIENCE, text)

    def _check_pruned(self) -> None:
        """I7: what left Git stays, unless pruning is on and the commit is whole."""
        tick = self._sim.tick
        desired = tick.world.desired if tick else None
        settings = desired.settings if desired else ClusterSettings()
        if desired is None or (settings.prune.enabled and not desired.errors):
            return
        wanted = {service.name for service in desired.services}
        for name in self._routed_once - wanted:
            memory = self._sim.known(name)
            if memory is not None and memory.is_removed:
                continue  # An earlier commit let it go.
            cells = memory.cells_of(memory.stable) if memory else ()
            _must(bool(cells) or (memory is not None and memory.stable is None), f"I7: {name} was removed unasked")


def _waits_apart(rollout: Rollout) -> bool:
    """A way back takes no place away from others, and who stands still for a person gave his up."""
    return rollout.is_parked or rollout.is_fast


def _by_revision(row: ServiceRoute | None) -> dict[str, int]:
    weights: Counter[str] = Counter()
    for cell in row.cells if row else ():
        key = parse_cell_name(cell.cell)
        assert key is not None
        weights[key.revision] += cell.weight
    assert sum(weights.values()) in (0, FULL)
    return dict(weights)


def _is_of(application: str, service: str) -> bool:
    key = parse_cell_name(application)
    return key is not None and key.service == service


def _must(holds: bool, text: str) -> None:
    if not holds:
        raise InvariantBroken(text)


def _longest_request(config: Mapping[str, Any]) -> float:
    listed = [deployment.get("graceful_shutdown_timeout_s", 0.0) for deployment in config.get("deployments", ())]
    return float(max(listed, default=0.0))
