"""Plays a story: lines of what people and accidents do, against the real loop in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from specs.desired import ClusterSettings, DesiredService, PruneSettings, SpecError
from specs.placement_spec import PlacementSpec
from specs.routes import Sticky, StickyKind
from tests.builders import amount, gate, service, steps
from tests.sim.fake_nodes import make_node
from tests.sim.scenarios import CODE
from tests.sim.world import Simulation

UNTOLD = ("SpecChanged",)
"""Events that each push causes anyway."""


class Stage:
    """One story on its simulation. `defaults` are the spec of every service in it, as `builders.service` takes it."""

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        self.sim = Simulation()
        self.defaults = dict(defaults)
        self.services: dict[str, DesiredService] = {}
        self.errors: list[SpecError] = []
        self.settings = ClusterSettings()
        self.told = 0

    async def play(self, line: str) -> None:
        """Do what a line says, such as `push chat v2 code=sick` or `wait 30`."""
        verb, *words = line.split()
        actions: dict[str, Callable[..., Any]] = {
            "push": self._push,
            "drop": self._drop,
            "break": self._break,
            "policy": self._policy,
            "wait": lambda duration: self.sim.run(float(duration)),
            "settle": self.sim.settle,
            "until": self._until,
            "order": self._order,
            "crash": self._crash,
            "lose": self._lose,
            "nodes": self._nodes,
            "reclaim": self._reclaim,
            "remove": self._remove,
            "gate": self._gate,
            "want": self._want,
            "run": self._foreign,
            "withdraw": self.sim.book.withdrawn.add,
            "sicken": self._sicken,
            "mislead": self._mislead,
            "traffic": self._traffic,
            "worsen": self._worsen,
        }
        done = actions[verb](*words)
        if done is not None:
            await done

    def news(self) -> list[str]:
        """Return the events since the last call, one line each, without the service's name if there is only one."""
        events = self.sim.watch.events[self.told :]
        self.told = len(self.sim.watch.events)
        several = len({event.service for event in self.sim.watch.events}) > 1
        return [
            f"{f'{event.service}: ' if several else ''}{event.kind}: {_brief(event.message)}"
            for event in events
            if event.kind not in UNTOLD
        ]

    def picture(self, name: str) -> dict[str, Any]:
        """Return what is to be seen of a service at the end of a scene."""
        if self.sim.known(name) is None:
            return {"gone": True}
        status = self.sim.status(name)
        names = sorted({d for _, app in self.sim.watch.applications(name) for d in app.deployments})
        return {
            "stable": status.stable,
            "candidate": status.candidate,
            "quarantined": list(status.quarantined),
            "weights": {version: round(weight) for version, weight in self.sim.weights(name).items()},
            "counts": {deployment: self.sim.counts(name, deployment) for deployment in names},
            "peak": {deployment: self.sim.serve.peak(name, deployment) for deployment in names},
            "reason": status.reason.value,
            "health": status.health.value,
            "sync": status.sync.value,
            "phase": status.phase.value,
        }

    def _commit(self) -> None:
        self.sim.push(*self.services.values(), errors=tuple(self.errors), settings=self.settings)

    def _push(self, name: str, version: str, *options: str) -> None:
        changes = dict(option.split("=", 1) for option in options)
        code = CODE[changes.pop("code", "good")]
        made = {**self.defaults, **{key: yaml.safe_load(value) for key, value in changes.items()}}
        made["steps"] = steps(*made.get("steps", [50]))
        if "placement" in made:
            made["placement"] = PlacementSpec.model_validate(made["placement"]).settings()
        if "sticky" in made:
            made["sticky"] = Sticky(kind=StickyKind.HEADER, name=made["sticky"])
        made["gates"] = tuple(gate(name, **options) for name, options in made.get("gates", {}).items())
        if isinstance(made["sizes"], dict):
            made["sizes"] = {key: tuple(n) if isinstance(n, list) else n for key, n in made["sizes"].items()}
        self.services[name] = service(name, version, args={**code, **made.pop("args", {})}, **made)
        self.errors = [error for error in self.errors if error.path != f"{name}.yaml"]
        self._commit()

    def _drop(self, *names: str) -> None:
        for name in names:
            del self.services[name]
        self._commit()

    def _break(self, name: str) -> None:
        del self.services[name]
        self.errors.append(SpecError(path=f"{name}.yaml", line=7, column=3, message="unknown field `replica`"))
        self._commit()

    def _policy(self, *options: str) -> None:
        for option in options:
            key, value = option.split("=")
            match key:
                case "prune":
                    prune = PruneSettings(enabled=value == "on", max_services=1, max_fraction=amount("50%"))
                    self.settings = replace(self.settings, prune=prune)
                case "moving":
                    self.settings = replace(self.settings, max_services_moving=int(value))
                case "heal":
                    self.settings = replace(self.settings, self_heal=value == "on")
        self._commit()

    async def _until(self, name: str, what: str, wanted: str) -> None:
        def holds() -> bool:
            if name not in {
                known.name for known in ((self.sim.daemon and self.sim.daemon.status) or _NOTHING).services
            }:
                return False
            if what == "weight":
                return any(f"{version}:{round(w)}" == wanted for version, w in self.sim.weights(name).items())
            return str(getattr(self.sim.status(name), what)) == wanted

        await self.sim.until(holds, what=f"{name} {what} {wanted}")

    async def _order(self, verb: str, name: str, *options: str) -> None:
        wanted = dict(option.split("=", 1) for option in options)
        refusal = await self.sim.order(verb, name, **{key: yaml.safe_load(value) for key, value in wanted.items()})
        if refusal:
            self.sim.watch.log.append(f"refused: {refusal}")
            raise AssertionError(f"{verb} {name} was refused: {refusal}")

    def _crash(self, number: str, when: str = "before") -> None:
        self.sim.crash.arm(int(number), is_after=when == "after")

    async def _lose(self, what: str, duration: str = "0") -> None:
        lose, find = {
            "ray": (self.sim.ray_fails, self.sim.ray_mends),
            "gateway": (self.sim.gateway_fails, self.sim.gateway_mends),
            "git": (self.sim.git_fails, self.sim.git_mends),
            "head": (self.sim.lose_head, lambda: None),
            "daemon": (self.sim.kill, lambda: None),
            "counters": (self.sim.gateway.traffic.clear, lambda: None),
        }[what]
        lose()
        for _ in range(int(duration)):
            await self.sim.step(restart=False)
        find()

    def _nodes(self, *kinds: str) -> None:
        """There are these nodes, each `ZONE:MARKET`, and no others."""
        self.sim.nodes.nodes.clear()
        for number, kind in enumerate(kinds, start=1):
            zone, _, market = kind.partition(":")
            self.sim.nodes.add(make_node(number, zone, cpus=100, market=market))

    def _reclaim(self, number: str) -> None:
        """A spot node is taken away without notice."""
        self.sim.watch.excused()
        self.sim.nodes.kill(f"node{number}")

    def _remove(self, whose: str) -> None:
        assert whose == "ours"
        self.sim.somebody_removes_ours()

    def _gate(self, name: str, mood: str) -> None:
        self.sim.gates.moods[name] = mood

    def _want(self, name: str, deployment: str, count: str) -> None:
        for key, _ in self.sim.watch.applications(name):
            self.sim.serve.want(key.name, deployment, int(count))

    def _traffic(self, rate: str) -> None:
        """From now on this many requests a second come for each service."""
        self.sim.signals.rate = float(rate)

    def _worsen(self, name: str, version: str) -> None:
        """A version fails a tenth of its requests from now on, healthy as it is."""
        self.sim.book.worsened[version] = 0.1

    def _mislead(self, name: str, version: str) -> None:
        """A version has one client that sends a fifth of its requests, each with a broken token."""
        self.sim.signals.broken_clients.add(version)

    def _sicken(self, name: str, version: str) -> None:
        """Every replica of a version fails its health checks from now on."""
        self.sim.book.sick |= {key.name for key, _ in self.sim.watch.applications(name) if key.revision == version}

    def _foreign(self, name: str) -> None:
        """Somebody else deploys an application of their own, declared in the same document."""
        configs = [dict(config) for config in self.sim.serve.configs().values()]
        entry = {"name": name, "route_prefix": f"/{name}", "import_path": "theirs:app"}
        self.sim.serve.instance.top_level["target_capacity"] = 80.0
        self.sim.serve.put_by_somebody_else([*configs, entry])


def _brief(message: str) -> str:
    """Return a message's first line; when an analysis is sure of which numbers is a matter of its own tests."""
    told, found, _ = message.splitlines()[0].partition("(AnalysisFailed): ")
    return f"{told}{found}..." if found else told


class _Nothing:
    services = ()


_NOTHING: Any = _Nothing()


def read_story(path: Path) -> dict[str, Any]:
    story: dict[str, Any] = yaml.safe_load(path.read_text())
    return story
