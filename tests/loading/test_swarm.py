"""The tracker's decisions: by example, and as a simulated swarm in virtual time under random speeds and deaths."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.safetensors import swarm as module
from loaders.safetensors.cache_content import bits
from loaders.safetensors.swarm import AVOIDED, QUIET, SILENT, STUCK, UPLOADS, Swarm


def three(chunks: int = 6) -> Swarm:
    swarm = Swarm(chunks)
    for name in "abc":
        swarm.join(name, f"{name}:1", 0, 0.0)
    return swarm


def test_the_origin_is_asked_for_each_chunk_once() -> None:
    swarm = three()
    asked = [swarm.assign(name, 0.0, origin=2, peers=2) for name in "abc"]
    assert [[each.chunk for each in given] for given in asked] == [[0, 1], [2, 3], [4, 5]]
    assert all(each.source is None for given in asked for each in given)
    assert swarm.assign("a", 0.0, origin=2, peers=2) == []


def test_a_chunk_that_landed_is_passed_on_with_its_checksum() -> None:
    swarm = three()
    swarm.assign("a", 0.0, origin=1, peers=0)
    swarm.landed("a", 0, 77)
    [assignment] = swarm.assign("b", 0.0, origin=0, peers=1)
    assert (assignment.chunk, assignment.source, assignment.endpoint, assignment.checksum) == (0, "a", "a:1", 77)


def test_the_rarest_goes_first() -> None:
    swarm = three(3)
    for name, chunk in (("a", 0), ("b", 0), ("a", 1)):
        swarm.landed(name, chunk, 1)
    assert [each.chunk for each in swarm.assign("c", 0.0, origin=0, peers=9)] == [1, 0]


def test_no_peer_is_asked_for_more_than_it_can_send() -> None:
    swarm = three(20)
    swarm.join("a", "a:1", swarm.all, 0.0)
    assert len(swarm.assign("b", 0.0, origin=0, peers=20)) == UPLOADS
    assert swarm.assign("c", 0.0, origin=0, peers=20) == []


def test_what_a_dead_node_held_and_fetched_is_free_again() -> None:
    swarm = three(2)
    swarm.landed("a", 0, 1)
    swarm.assign("a", 0.0, origin=2, peers=0)
    assert swarm.assign("b", 0.0, origin=2, peers=0) == []
    assert swarm.heard("b", SILENT + 1)
    assert set(swarm.members) == {"b"}
    assert [each.chunk for each in swarm.assign("b", SILENT + 1, origin=2, peers=0)] == [0, 1]
    assert not swarm.heard("a", SILENT + 2), "one that comes back must say anew what it has"


def test_who_failed_is_not_asked_again_for_a_while() -> None:
    swarm = three(1)
    swarm.landed("a", 0, 1)
    assert swarm.assign("b", 0.0, origin=1, peers=1)[0].source == "a"
    swarm.failed("b", 0, 0.0)
    assert swarm.assign("b", 1.0, origin=0, peers=1) == []
    assert swarm.assign("c", 1.0, origin=1, peers=1)[0].source == "a"
    assert swarm.assign("b", AVOIDED + 1, origin=1, peers=1)[0].source == "a"


def test_what_only_unreachable_peers_have_comes_from_the_origin() -> None:
    swarm = three(1)
    swarm.landed("a", 0, 1)
    swarm.assign("b", 0.0, origin=1, peers=1)
    swarm.failed("b", 0, 0.0)
    assert swarm.assign("b", 1.0, origin=1, peers=1)[0].source is None


def test_a_chunk_that_its_holder_lost_comes_from_the_origin_again() -> None:
    swarm = three(1)
    swarm.landed("a", 0, 1)
    swarm.assign("b", 0.0, origin=1, peers=1)
    swarm.failed("b", 0, 0.0, lost=True)
    assert swarm.assign("b", 0.0, origin=1, peers=1)[0].source is None


def test_a_stuck_fetch_does_not_hold_up_the_others() -> None:
    swarm = three(1)
    swarm.assign("a", 0.0, origin=1, peers=0)
    for second in (10, 20, STUCK - 1):
        assert swarm.assign("a", second, origin=1, peers=0) == []
        assert swarm.assign("b", second, origin=1, peers=0) == []
    assert swarm.assign("b", STUCK + 1, origin=1, peers=0)[0].chunk == 0


def test_what_a_peer_brings_late_is_asked_of_another_and_else_of_the_origin() -> None:
    swarm = three(2)
    for name in "ab":
        swarm.landed(name, 0, 1)
    [first] = swarm.assign("c", 0.0, origin=0, peers=1)
    swarm.late("c", 0)
    [second] = swarm.assign("c", 0.0, origin=0, peers=9)
    assert {first.source, second.source} == {"a", "b"}
    swarm.late("c", 0)
    assert [each.chunk for each in swarm.assign("c", 0.0, origin=1, peers=9)] == [0], "before what is nobody's yet"


def test_what_is_late_goes_before_what_is_rarer() -> None:
    swarm = three(2)
    swarm.join("d", "d:1", 0, 0.0)
    for name in "abd":
        swarm.landed(name, 1, 1)
    [first] = swarm.assign("c", 0.0, origin=0, peers=1)
    swarm.late("c", 1)
    rarer = next(name for name in "abd" if name != first.source)
    swarm.landed(rarer, 0, 1)
    assert [each.chunk for each in swarm.assign("c", 0.0, origin=0, peers=1)] == [1]


def test_who_begins_anew_is_given_what_it_fetched_before_and_has_no_grudges() -> None:
    """Its process was killed, and the next one knows nothing of what was on its way or failed."""
    swarm = three(3)
    assert [each.chunk for each in swarm.assign("a", 0.0, origin=3, peers=0)] == [0, 1, 2]
    swarm.failed("a", 0, 0.0)
    assert swarm.assign("a", 0.0, origin=3, peers=0) == [], "the origin has just failed it"
    swarm.begin("a", 0)
    assert [each.chunk for each in swarm.assign("a", 0.0, origin=3, peers=0)] == [0, 1, 2]


def test_who_is_late_is_asked_for_nothing_more_but_not_given_up() -> None:
    swarm = three(3)
    swarm.join("a", "a:1", swarm.all, 0.0)
    assert swarm.assign("c", 0.0, origin=9, peers=1)[0].source == "a"
    swarm.late("c", 0)
    assert [(each.chunk, each.source) for each in swarm.assign("c", 0.0, origin=9, peers=9)] == [(0, None)]
    swarm.landed("c", 0, 1)
    assert {each.source for each in swarm.assign("c", 0.0, origin=9, peers=9)} == {"a"}, "it brought it after all"


def test_who_was_overtaken_is_avoided_for_a_while_and_then_asked_again() -> None:
    swarm = three(2)
    swarm.join("a", "a:1", swarm.all, 0.0)
    swarm.assign("c", 0.0, origin=0, peers=1)
    swarm.late("c", 0)
    swarm.let_go("c", 0, "a", 0.0)
    assert swarm.assign("c", 1.0, origin=0, peers=9) == []
    assert {each.source for each in swarm.assign("c", AVOIDED + 1, origin=0, peers=9)} == {"a"}


def test_late_requests_count_among_what_a_peer_sends() -> None:
    swarm = three(9)
    swarm.join("a", "a:1", swarm.all, 0.0)
    for chunk in range(UPLOADS):
        assert swarm.assign("b", 0.0, origin=0, peers=1)[0].chunk == chunk
    for chunk in range(UPLOADS):
        swarm.late("b", chunk)
    assert swarm.assign("c", 0.0, origin=0, peers=9) == []


def test_processes_of_a_node_get_what_each_wants_and_nothing_twice() -> None:
    swarm = three(6)
    swarm.join("a/1", "a:1", 0, 0.0)
    swarm.join("a/2", "a:1", 0, 0.0)
    swarm.begin("a/1", 0, 0b000111)
    swarm.begin("a/2", 0, 0b001110)
    assert [each.chunk for each in swarm.assign("a/1", 0.0, origin=9, peers=9)] == [0, 1, 2]
    assert [each.chunk for each in swarm.assign("a/2", 0.0, origin=9, peers=9)] == [3]
    for chunk in range(3):
        swarm.landed("a/1", chunk, 1)
    assert swarm.done("a/1")
    assert not swarm.done("a/2")
    swarm.landed("a/2", 3, 1)
    assert swarm.done("a/2")
    assert swarm.assign("a", 0.0, origin=0, peers=9) == [], "a node does not send to itself"
    assert len(swarm.assign("b", 0.0, origin=0, peers=9)) == UPLOADS, "however many processes it has"
    assert swarm.holders("a") == {}
    assert swarm.holders("b") == {"a:1": 0b001111}


def test_what_a_killed_process_fetched_is_another_ones_of_its_node() -> None:
    swarm = three(1)
    for name in ("a/1", "a/2"):
        swarm.join(name, "a:1", 0, 0.0)
        swarm.begin(name, 0, 1)
    swarm.assign("a/1", 0.0, origin=1, peers=0)
    assert swarm.heard("a/2", QUIET - 1)
    assert swarm.assign("a/2", QUIET - 1, origin=1, peers=0) == []
    assert swarm.heard("a/2", QUIET + 1)
    assert swarm.assign("b", QUIET + 1, origin=1, peers=0) == [], "other nodes wait for longer: it may be on its way"
    assert [each.chunk for each in swarm.assign("a/2", QUIET + 1, origin=1, peers=0)] == [0]


def test_a_word_of_another_process_of_its_node_does_not_keep_what_a_killed_one_fetched() -> None:
    swarm = three(1)
    swarm.join("a/2", "a:1", 0, 0.0)
    swarm.begin("a/2", 0, 1)
    swarm.assign("a", 0.0, origin=1, peers=0)
    for second in range(1, int(SILENT) + 2):
        swarm.join("a", "a:1", 0, float(second))
        assert swarm.heard("a/2", float(second))
        assert swarm.heard("b", float(second))
    assert swarm.assign("b", SILENT - 1, origin=1, peers=0) == []
    assert [each.chunk for each in swarm.assign("b", SILENT + 1, origin=1, peers=0)] == [0]
    assert swarm.assign("a/2", QUIET - 1, origin=1, peers=0) == []
    swarm.end("b")
    assert [each.chunk for each in swarm.assign("a/2", QUIET + 1, origin=1, peers=0)] == [0]


def test_who_fetches_no_more_leaves_what_was_on_its_way_to_the_others_and_keeps_what_it_has() -> None:
    swarm = three(3)
    assert len(swarm.assign("a", 0.0, origin=2, peers=0)) == 2
    swarm.landed("a", 0, 1)
    assert swarm.assign("b", 0.0, origin=9, peers=0)[0].chunk == 2
    swarm.end("a")
    assert [each.chunk for each in swarm.assign("b", 0.0, origin=9, peers=0)] == [1]
    assert swarm.holders("b") == {"a:1": 0b001}


def test_what_a_node_says_it_has_is_not_on_its_way_to_it() -> None:
    """Its peer may then be late with it, and the origin is asked although it was asked before."""
    swarm = three(1)
    swarm.assign("a", 0.0, origin=1, peers=0)
    swarm.join("a", "a:1", 0b1, 1.0)
    assert swarm.assign("b", 1.0, origin=1, peers=1)[0].source == "a"
    swarm.late("b", 0)
    assert [each.source for each in swarm.assign("b", 1.0, origin=1, peers=1)] == [None]


def test_a_node_whose_cache_was_emptied_is_believed() -> None:
    swarm = three(3)
    swarm.join("a", "a:1", 0b111, 0.0)
    swarm.join("a", "a:2", 0b001, 1.0)
    swarm.begin("a", 0b001)
    assert not swarm.done("a")
    assert [each.chunk for each in swarm.assign("a", 1.0, origin=9, peers=9)] == [1, 2]


def test_the_origin_is_not_needed_once_one_node_has_everything() -> None:
    swarm = Swarm(40)
    swarm.join("a", "a:1", swarm.all, 0.0)
    swarm.join("b", "b:1", 0, 0.0)
    while not swarm.done("b"):
        given = swarm.assign("b", 0.0, origin=4, peers=4)
        assert given
        assert all(each.source == "a" for each in given)
        for each in given:
            swarm.landed("b", each.chunk, 0)


def test_sets_of_chunks() -> None:
    assert list(bits(0b101001)) == [0, 3, 5]


@dataclass
class Simulation:
    """Nodes with links of their own and an origin with one for all, in virtual time. One chunk is one unit of bytes."""

    seed: int
    nodes: int
    chunks: int
    deaths: int = 0
    flaky: float = 0.0
    slow: float = 0.0
    """This share of what peers are asked for comes ten seconds late."""
    origin_rate: float = 40.0
    link: float = 80.0
    slots: int = 4
    now: float = 0.0
    from_origin: int = 0
    finished: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.swarm = Swarm(self.chunks)
        self.events: list[tuple[float, int, str, int, str | None, str]] = []
        self.late: set[tuple[str, int, str | None]] = set()
        self.busy: Counter[str | None] = Counter()
        self.pending: dict[str, Counter[bool]] = {}
        self.have: dict[str, set[int]] = {}
        self.number = 0

    def run(self) -> None:
        for number in range(self.nodes):
            name = f"n{number}"
            self.have[name], self.pending[name] = set(), Counter()
            self.swarm.join(name, name, 0, 0.0)
        doomed = self.random.sample(sorted(self.have), self.deaths)
        dies_at = {name: self.random.uniform(0.05, 0.9) * self.chunks / self.origin_rate for name in doomed}
        while any(name not in self.finished for name in self.have):
            for name in [name for name in self.have if self.now >= dies_at.get(name, float("inf"))]:
                del self.have[name], dies_at[name]
                self.finished.pop(name, None)
            for name in sorted(self.have, key=lambda _: self.random.random()):
                self.ask(name)
            self.step()
            assert self.now < 500, "no progress"

    def ask(self, name: str) -> None:
        if not self.swarm.heard(name, self.now):
            self.swarm.join(name, name, sum(1 << chunk for chunk in self.have[name]), self.now)
        if self.swarm.done(name):
            self.finished.setdefault(name, self.now)
            return
        free = {kind: self.slots - self.pending[name][kind] for kind in (False, True)}
        for each in self.swarm.assign(name, self.now, origin=free[False], peers=free[True]):
            assert each.chunk not in self.have[name], "nothing is fetched twice by one node"
            holder = self.have.get(each.source or "")
            assert holder is None or each.chunk in holder, "a peer is asked only for what it has"
            self.pending[name][each.source is not None] += 1
            self.busy[each.source] += 1
            rate = self.origin_rate if each.source is None else self.link
            took = self.busy[each.source] / rate * self.random.uniform(0.9, 1.1)
            if each.source is not None and self.random.random() < self.slow:
                took += 10.0
                self.expect(1.0, name, each.chunk, each.source, "late")
            self.expect(took, name, each.chunk, each.source, "ended")

    def expect(self, after: float, name: str, chunk: int, source: str | None, what: str) -> None:
        self.number += 1
        heapq.heappush(self.events, (self.now + after, self.number, name, chunk, source, what))

    def is_late(self, name: str, chunk: int, source: str | None) -> None:
        """As a node does it: the request goes on, its slot is free, and somebody else is asked too."""
        if name in self.have and chunk not in self.have[name] and name in self.swarm.members:
            self.late.add((name, chunk, source))
            self.pending[name][True] -= 1
            self.swarm.late(name, chunk)

    def step(self) -> None:
        if not self.events:
            self.now += 0.5
            return None
        self.now, _, name, chunk, source, what = heapq.heappop(self.events)
        if what == "late":
            return self.is_late(name, chunk, source)
        self.busy[source] -= 1
        if source is None:
            self.from_origin += 1
        if name not in self.have:
            return None
        if (name, chunk, source) in self.late:
            return self.ended_late(name, chunk, str(source))
        self.pending[name][source is not None] -= 1
        if chunk in self.have[name]:
            return None  # the late one was faster after all
        if source is not None and source not in self.have:
            self.swarm.failed(name, chunk, self.now)
        elif source is not None and chunk not in self.have[source]:
            self.swarm.failed(name, chunk, self.now, lost=True)
        elif self.random.random() < self.flaky:
            lost = source is not None and self.random.random() < 0.3
            self.swarm.failed(name, chunk, self.now, lost=lost)
            if lost and source in self.swarm.members:
                self.have[str(source)].discard(chunk)  # evicted there
                self.finished.pop(str(source), None)
        else:
            self.have[name].add(chunk)
            if name in self.swarm.members:
                self.swarm.landed(name, chunk, 1)
        return None

    def ended_late(self, name: str, chunk: int, source: str) -> None:
        self.late.discard((name, chunk, source))
        if name not in self.swarm.members:
            return
        if chunk in self.have[name] or chunk not in self.have.get(source, ()):
            self.swarm.let_go(name, chunk, source, self.now)
        else:
            self.have[name].add(chunk)
            self.swarm.landed(name, chunk, 1)


def single(chunks: int) -> float:
    alone = Simulation(seed=0, nodes=1, chunks=chunks)
    alone.run()
    return alone.finished["n0"]


def healthy(seed: int, nodes: int, chunks: int) -> None:
    found = Simulation(seed=seed, nodes=nodes, chunks=chunks)
    found.run()
    assert found.from_origin == chunks
    assert max(found.finished.values()) <= 1.5 * single(chunks)


def survivors(seed: int, nodes: int, deaths: int, flaky: float, slow: float = 0.0) -> None:
    found = Simulation(seed=seed, nodes=nodes, chunks=60, deaths=deaths, flaky=flaky, slow=slow)
    found.run()
    assert set(found.finished) == set(found.have)
    assert all(len(have) == 60 for have in found.have.values())


@given(seed=st.integers(0, 10**6), nodes=st.integers(2, 9), chunks=st.integers(40, 100))
@settings(max_examples=20)
def test_healthy_swarms_ask_the_origin_once_and_are_as_fast_as_one_node(seed: int, nodes: int, chunks: int) -> None:
    healthy(seed, nodes, chunks)


@given(
    seed=st.integers(0, 10**6),
    nodes=st.integers(2, 8),
    deaths=st.integers(0, 3),
    flaky=st.floats(0, 0.1),
    slow=st.floats(0, 0.3),
)
@settings(max_examples=40)
def test_whoever_survives_gets_everything(seed: int, nodes: int, deaths: int, flaky: float, slow: float) -> None:
    survivors(seed, nodes, min(deaths, nodes - 1), flaky, slow)


@pytest.mark.parametrize(
    "mutation",
    ["everyone asks the origin", "no relay before the end", "the dead are kept"],
)
def test_the_simulation_sees_what_is_wrong(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match mutation:
        case "everyone asks the origin":
            monkeypatch.setattr(Swarm, "_asked_of_origin", lambda *_: 0)
        case "no relay before the end":
            whole = Swarm._from_peers
            monkeypatch.setattr(
                Swarm,
                "_from_peers",
                lambda self, *rest: whole(self, *rest) if any(map(self.done, self.members)) else iter(()),
            )
        case _:
            monkeypatch.setattr(module, "SILENT", float("inf"))
            monkeypatch.setattr(module, "STUCK", float("inf"))

    def simulate() -> None:
        for seed in range(5):
            healthy(seed, nodes=4, chunks=60)
            survivors(seed, nodes=4, deaths=2, flaky=0.0)

    with pytest.raises(AssertionError):
        simulate()
