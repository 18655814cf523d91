"""The story about places: its specs, its pictures, and what it makes of what it saw."""

from __future__ import annotations

import io
import re
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.demo.guest_book import Executions
from reconciler.demo.nodes import BOX_WIDTH, NodesSight, Painter, read_nodes
from reconciler.demo.placement import LEFT_AFTER, UNDER_WAY, PlacementStory
from reconciler.demo.placement_repository import (
    GREETERS,
    OTHER,
    OTHER_SPEC,
    POLICY,
    TRANSLATORS,
    PlacementRepository,
)
from reconciler.demo.repository import APP, SERVICE, SPEC, sample
from reconciler.demo.screen import Names, Screen
from reconciler.demo.traffic import Tally
from reconciler.demo.witness import Witness
from specs.desired import FixedScale
from tests.unit.demo.test_sample import read
from tests.unit.demo.test_story import Counted, Terminal

LOST_AT = 100.0


def node(number: int, zone: str, *, alive: bool = True, draining: bool = False, head: bool = False) -> dict[str, Any]:
    return {
        "id": f"n{number}{'' if alive else ' before'}",
        "ip": f"127.0.0.{number}",
        "zone": zone,
        "isAlive": alive,
        "isDraining": draining,
        "isHead": head,
    }


def replica(on: str, service: str = SERVICE, state: str = "RUNNING", *, moving: bool = False) -> dict[str, Any]:
    return {"node": on, "service": service, "revision": f"{service[:3]}0123", "state": state, "isMigrating": moving}


NODES = {
    "nodes": [
        node(10, "", head=True),
        node(11, "a"),
        node(12, "a", draining=True),
        node(13, "b", alive=False),
        node(13, "b"),
        node(14, "c", alive=False),
    ],
    "replicas": [
        replica("n11"),
        replica("n11", OTHER),
        replica("n12", moving=True),
        replica("n13", state="STARTING"),
        replica("n13", "", state="RUNNING"),
        replica("", state="STARTING"),
        replica("n14 before"),
    ],
}


def test_the_head_is_left_out_and_a_dead_node_gives_its_place_to_a_living_one() -> None:
    found = read_nodes(NODES)
    assert [(box.ip, box.zone, box.state, len(box.dots)) for box in found.boxes] == [
        ("127.0.0.11", "a", "", 2),
        ("127.0.0.12", "a", "draining", 1),
        ("127.0.0.13", "b", "", 1),
        ("127.0.0.14", "c", "dead", 0),
    ]
    assert found.per_zone(SERVICE) == {"a": 2}
    assert found.per_zone(OTHER) == {"a": 1}


def test_a_picture_without_colours_is_plain_text() -> None:
    painter = Painter(screen=Screen(out=io.StringIO()), names=Names(known={"gre0123": "v1"}))
    assert painter.draw(read_nodes(NODES)) == [
        "         zone a                   zone b                   zone c",
        "         +- 127.0.0.11 ---------+ +- 127.0.0.13 ---------+ +- 127.0.0.14 dead ----+",
        "         | G T                  | | G+                   | | -                    |",
        "         +----------------------+ +----------------------+ +----------------------+",
        "         +- 127.0.0.12 draining +",
        "         | G>                   |",
        "         +----------------------+",
        "         G greeter v1   T translator tra0123   G> moves away   G+ starts",
    ]


def test_each_revision_of_a_service_has_a_colour_that_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    painter = Painter(screen=Screen(out=Terminal()), names=Names())
    first, second = painter.draw(read_nodes(NODES)), painter.draw(read_nodes(NODES))
    assert first == second
    assert {colour for colour, _ in re.findall(r"\x1b\[(\d+)m(■)", "\n".join(first))} == {"36", "33"}
    widths = {len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in first[1:4]}
    assert widths == {9 + 3 * BOX_WIDTH + 2}


def test_many_replicas_take_several_lines() -> None:
    many = {"nodes": [node(11, "a")], "replicas": [replica("n11") for _ in range(15)]}
    lines = Painter(screen=Screen(out=io.StringIO()), names=Names()).draw(read_nodes(many))
    assert [line.count("G") for line in lines[2:4]] == [10, 5]
    assert Painter(screen=Screen(out=io.StringIO()), names=Names()).draw(NodesSight()) == []


def test_the_specs_are_valid_and_have_the_numbers_that_the_story_tells(tmp_path: Path) -> None:
    repository = PlacementRepository(tmp_path / "repo")
    repository.create()
    repository.add_services()
    repository.allow_compaction()
    files = (SPEC, OTHER_SPEC, POLICY)
    desired = read({path: (repository.folder / path).read_text() for path in files})
    assert desired.errors == ()
    sizes = {}
    for service in desired.services:
        (deployment,) = service.revision.deployments
        assert isinstance(deployment.scale, FixedScale)
        assert service.placement is not None
        assert service.placement.zones is not None
        sizes[service.name] = deployment.scale.replicas
    assert sizes == {SERVICE: GREETERS, OTHER: TRANSLATORS}
    assert desired.settings.compaction.enabled
    assert (repository.folder / APP).read_text() == sample("app.py")


def story(*failed_at: float, left: int = 3, answers: int = 50, twice: tuple[str, ...] = ()) -> PlacementStory:
    """Return a story as it is after its last chapter; the zone died at 100 s, within one second."""
    load = Counted(Executions(answered=3, twice=twice, lost=()))
    load.tally = Tally(
        answers=Counter(["Hello from v1"] * answers),
        failures=Counter({"ReadError": len(failed_at)}),
        failed_at=list(failed_at),
        examples=["ReadError"] * len(failed_at),
    )
    witness = Witness(page_url="", ray_url="", service=SERVICE)
    zones = "abc" * 2
    witness.nodes = read_nodes({"nodes": [node(11 + n, zones[n]) for n in range(left)], "replicas": []})
    told = PlacementStory(
        witness=witness,
        load=load,
        screen=Screen(out=io.StringIO()),
        names=Names(),
        start_load=lambda: None,
        repository=PlacementRepository(Path("/nonexistent")),
        cluster=object(),  # type: ignore[arg-type]
        page_url="",
        planned=3,
        lost_at=(LOST_AT, LOST_AT + 1),
    )
    told.look_back()
    return told


def test_what_died_with_its_zone_is_part_of_the_story() -> None:
    told = story(LOST_AT - UNDER_WAY, LOST_AT + 1 + LEFT_AFTER)
    assert told.differences == []
    assert told.moral == "no request failed but those that died with their zone (2)."
    assert story().moral == "no request failed."


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (story(LOST_AT - UNDER_WAY - 0.1), "1 of 51 requests failed that were not on their way when zone c died"),
        (story(LOST_AT + 1 + LEFT_AFTER + 0.1), "1 of 51 requests failed"),
        (story(left=4), "4 nodes are left, the plan was 3"),
        (story(twice=("guest 3",)), "executed twice: guest 3"),
        (story(answers=0), "nobody was ever answered 'Hello from v1'"),
    ],
    ids=["before", "too late", "a node too many", "twice", "no answer"],
)
def test_whatever_differs_is_told(told: PlacementStory, expected: str) -> None:
    assert [difference for difference in told.differences if difference.startswith(expected)] != []


def test_the_table_says_how_many_nodes_are_left() -> None:
    lines = story(LOST_AT + 0.25).table(timedelta(seconds=200)).splitlines()
    assert "nodes                   6 before, 3 after" in lines
    assert "failed with their zone  1, the last one sent +0.2 s after the first node died" in lines
    assert "requests failed         1" in lines
