"""Which services there are: adoption, routes, pruning, and how many may move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from policies.membership import adopt, free_routes, limit_moving, moving, prune, route_conflicts
from reconciler.planning.moment import Surroundings
from reconciler.planning.plan import make_plan
from specs.decisions import Hold, Remove, StartRollout
from specs.desired import ClusterSettings, DesiredService, PruneSettings, SpecError
from specs.memory import Memory, Rollout, ServiceMemory
from specs.observed import Observed
from specs.reasons import Reason
from specs.world import World
from tests.builders import NOW, amount, cell, desired, revision, service

ERROR = SpecError(path="x.yaml", line=1, column=1, message="no")


def known(*services: DesiredService, **fields: object) -> Mapping[str, ServiceMemory]:
    made = {
        spec.name: ServiceMemory(name=spec.name, wanted=spec, stable="v1", cells=(cell("v1", name=spec.name)[0],))
        for spec in services
    }
    return {name: replace(memory, **fields) for name, memory in made.items()}  # type: ignore[arg-type]


def look(
    *wanted: DesiredService,
    memory: Mapping[str, ServiceMemory],
    errors: tuple[SpecError, ...] = (),
    pruning: PruneSettings | None = None,
) -> World:
    settings = ClusterSettings(prune=pruning or PruneSettings(enabled=True, max_services=1, max_fraction=amount("20%")))
    commit = desired(*wanted, errors=errors, settings=settings)
    return World(now=NOW, desired=commit, observed=Observed(at=NOW, complete=True), memory=Memory(services=memory))


A, B, C = service("a"), service("b"), service("c")


def test_what_is_new_or_differs_is_adopted() -> None:
    longer = replace(B, rollout=replace(B.rollout, auto_rollback=False))
    adopted = adopt(look(A, longer, C, memory=known(A, B)))
    assert [decision.service for decision in adopted] == ["b", "c"]


def test_a_service_that_comes_back_is_adopted_again() -> None:
    assert [decision.service for decision in adopt(look(A, memory=known(A, is_removed=True)))] == ["a"]


def test_before_the_first_commit_nothing_is_adopted_or_pruned() -> None:
    world = replace(look(memory=known(A)), desired=None)
    assert adopt(world) == ()
    assert prune(world) == {}


@pytest.mark.parametrize(
    ("errors", "pruning", "reason"),
    [
        ((), PruneSettings(enabled=False), Reason.PRUNE_DISABLED),
        ((ERROR,), PruneSettings(enabled=True), Reason.INVALID_SPEC),
    ],
)
def test_what_left_git_is_held(errors: tuple[SpecError, ...], pruning: PruneSettings, reason: Reason) -> None:
    decision = prune(look(A, memory=known(A, B), errors=errors, pruning=pruning))["b"]
    assert isinstance(decision, Hold)
    assert decision.reason is reason


def test_what_left_git_is_removed_when_pruning_is_on() -> None:
    assert prune(look(A, memory=known(A, B))) == {"b": Remove(service="b")}


def test_more_than_the_guard_allows_at_once_is_held_altogether() -> None:
    decisions = prune(look(A, memory=known(A, B, C)))
    assert [decision.reason for decision in decisions.values() if isinstance(decision, Hold)] == [
        Reason.PRUNE_GUARD,
        Reason.PRUNE_GUARD,
    ]


def test_the_last_service_is_never_pruned() -> None:
    decision = prune(look(memory=known(A)))["a"]
    assert isinstance(decision, Hold)
    assert decision.reason is Reason.PRUNE_GUARD


def test_one_more_may_move_while_the_limit_leaves_a_place() -> None:
    start = StartRollout(service="b", revision=revision("v2"))
    assert limit_moving(start, frozenset({"a"}), 2) is None
    held = limit_moving(start, frozenset({"a"}), 1)
    assert isinstance(held, Hold)
    assert held.reason is Reason.SERVICES_MOVING


def test_a_rollout_that_stands_still_does_not_count_as_moving() -> None:
    going = Rollout(started_at=NOW, progress_at=NOW)
    parked = replace(going, is_parked=True)
    assert moving({**known(A, rollout=going), **known(B, rollout=parked), **known(C)}) == {"a"}


def test_routes_may_be_swapped_in_one_commit() -> None:
    a, b = replace(A, route="/b"), replace(B, route="/a")
    assert free_routes(desired(a, b), known(A, B)) == {"a": "/b", "b": "/a"}


def test_a_route_that_a_held_service_has_is_not_taken() -> None:
    moved = replace(A, route="/b")
    assert free_routes(desired(moved), known(A, B)) == {"a": "/a", "b": "/b"}
    assert adopt(look(moved, memory=known(A, B))) == ()
    assert route_conflicts(look(moved, memory=known(A, B)))["a"].reason is Reason.ROUTE_CONFLICT


def test_a_chain_of_routes_behind_a_held_one_stays_where_it_is() -> None:
    """b is held; a wants b's route, c wants a's: nobody can move."""
    a, c = replace(A, route="/b"), replace(C, route="/a")
    assert free_routes(desired(a, c), known(A, B, C)) == {"a": "/a", "b": "/b", "c": "/c"}


GENEROUS = PruneSettings(enabled=True, max_services=9, max_fraction=amount("100%"))


def reasons(decisions: Mapping[str, object]) -> dict[str, Reason | None]:
    return {name: getattr(decision, "reason", None) for name, decision in decisions.items()}


def test_what_is_annotated_stays_and_the_others_go() -> None:
    kept = replace(B, is_prunable=False)
    found = prune(look(A, memory=known(A, kept, C), pruning=GENEROUS))
    assert reasons(found) == {"b": Reason.PRUNE_DISABLED, "c": None}
    assert "heliostat.dev/prune" in found["b"].message  # type: ignore[union-attr]


def test_services_go_in_reverse_order_of_who_needs_whom() -> None:
    c = service("c")
    b = service("b", depends_on=["c"])
    d = service("d", depends_on=["b", "c"])
    memory = dict(known(A, b, c, d))
    order: list[list[str]] = []
    while len(memory) > 1:
        found = prune(look(A, memory=memory, pruning=GENEROUS))
        going = [name for name, decision in found.items() if isinstance(decision, Remove)]
        order.append(going)
        held = {name: decision.message for name, decision in found.items() if isinstance(decision, Hold)}
        assert all("depends on it" in message for message in held.values())
        removing = {name: replace(memory[name], is_removed=True) for name in going}
        assert not [
            name
            for name, decision in prune(look(A, memory={**memory, **removing}, pruning=GENEROUS)).items()
            if isinstance(decision, Remove)
        ], "the next one waits until this one is gone"
        for name in going:
            del memory[name]
    assert order == [["d"], ["b"], ["c"]]


def test_what_a_service_of_the_commit_still_needs_stays() -> None:
    a = service("a", depends_on=["b"])
    assert reasons(prune(look(a, memory=known(a, B), pruning=GENEROUS))) == {"b": Reason.STILL_NEEDED}


def test_services_that_need_each_other_go_all_the_same() -> None:
    """A commit has no such circle, but services of several commits may."""
    b, c = service("b", depends_on=["c"]), service("c", depends_on=["b"])
    assert reasons(prune(look(A, memory=known(A, b, c), pruning=GENEROUS))) == {"b": None, "c": None}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (GENEROUS, None),
        (replace(GENEROUS, enabled=False), Reason.PRUNE_DISABLED),
        (replace(GENEROUS, max_services=1), Reason.PRUNE_GUARD),
        (replace(GENEROUS, max_fraction=amount("50%")), Reason.PRUNE_GUARD),
    ],
)
def test_a_policy_can_only_tighten_what_the_daemon_allows(limits: PruneSettings, expected: Reason | None) -> None:
    world = look(A, memory=known(A, B, C), pruning=GENEROUS)
    found = make_plan(world, Surroundings(gateway_url="http://x", prune=limits)).decisions["b"][-1]
    if expected is not None:
        assert isinstance(found, Hold)
        assert found.reason is expected
    else:
        assert found == Remove(service="b")
    tight = PruneSettings(enabled=True, max_services=1, max_fraction=amount("10%"))
    assert tight.within(GENEROUS) == tight == GENEROUS.within(tight)
    assert not tight.within(replace(GENEROUS, enabled=False)).enabled
