"""Placement in a Service: what it says, and where it speaks up."""

from __future__ import annotations

import pytest

from specs.amount import Amount
from specs.placement import Market, MarketSettings, Placement, ZoneFailure, ZoneSettings
from tests.unit.specs.commits import read

HEAD = "apiVersion: heliostat.dev/v1alpha1\nkind: Service\nmetadata: {name: chat}\nspec:\n"
ONE = "{name: Chat, num_replicas: 3, ray_actor_options: {num_cpus: 1}}"


def service(placement: str, *deployments: str) -> str:
    """Return a document whose placement is on line 5, and whose deployments start on line 9."""
    listed = "".join(f"    - {one}\n" for one in deployments or (ONE,))
    return f"{HEAD}  placement: {placement}\n  application:\n    import_path: a:b\n    deployments:\n{listed}"


def placement(text: str) -> Placement:
    desired = read(service(text))
    assert not desired.errors, desired.errors
    return desired.services[0].placement


def test_nothing_is_spread_unless_it_is_asked_for() -> None:
    assert placement("{}") == Placement()


def test_zones_are_read() -> None:
    assert placement("{zones: {}}").zones == ZoneSettings()
    text = "{zones: {spread: true, min: 2, include: [b, a, c], exclude: [c], zoneFailure: tolerate}}"
    assert placement(text).zones == ZoneSettings(
        min=2, include=("a", "b", "c"), exclude=("c",), zone_failure=ZoneFailure.TOLERATE
    )


def test_a_policy_is_named() -> None:
    assert placement("{zones: {}, policy: cheap}") == Placement(zones=ZoneSettings(), policy="cheap")
    assert placement("{policy: spread}") == Placement()


def test_placement_is_no_new_revision() -> None:
    texts = ("{}", "{zones: {}}", "{zones: {min: 2}}", "{zones: {}, policy: cheap}")
    ids = {read(service(text)).services[0].revision.id for text in texts}
    assert len(ids) == 1


LABEL = "ray.io/availability-zone"
PIN = f"{{name: Chat, ray_actor_options: {{num_cpus: 1, label_selector: {{{LABEL}: a}}}}}}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (service("{zones: {spread: false}}"), "are always spread"),
        (service("{zones: {min: 0}}"), "0 is too small: write 1 or more"),
        (service("{zones: {include: [a.b]}}"), "'a.b' is not a zone that cells can be in"),
        (service("{zones: {include: [a, a]}}"), "'a' is listed twice"),
        (service("{zones: {include: [a], exclude: [a]}}"), "every included zone is excluded, too"),
        (service("{zones: {include: [a], min: 2}}"), "min is 2 and only 1 zone(s) are included"),
        (service("{policy: cheap}"), "divides replicas over zones or markets: write zones"),
        (service("{zones: {}, policy: Cheap}"), '"Cheap" does not fit here'),
        (service("{zones: {}}", "{name: Chat}"), "write here what a replica needs"),
        (service("{zones: {}}", PIN), f"leave out {LABEL} here"),
        (f"{HEAD}  placement: {{zones: {{}}}}\n  application: {{import_path: 'a:b'}}\n", "list them under"),
    ],
)
def test_what_cannot_be_placed_is_said_with_what_to_write(text: str, said: str) -> None:
    found = [str(error) for error in read(text).errors]
    assert any(said in error for error in found), found


def test_a_selector_for_other_labels_stays_the_services_own() -> None:
    own = "{name: Chat, ray_actor_options: {num_cpus: 1, label_selector: {pool: gpu}}}"
    assert not read(service("{zones: {}}", own)).errors


MARKET = "ray.io/market-type"
SPOT = f"{{name: Chat, ray_actor_options: {{num_cpus: 1, label_selector: {{{MARKET}: spot}}}}}}"


def test_markets_are_read() -> None:
    assert placement("{market: {prefer: spot}}").market == MarketSettings()
    half = MarketSettings(prefer=Market.SPOT, base=Amount(value=50, is_percent=True))
    assert placement("{market: {prefer: spot, onDemandBase: 50%}}").market == half
    assert placement("{zones: {}, market: {prefer: on-demand, onDemandBase: 1}}").market == MarketSettings(
        prefer=Market.ON_DEMAND, base=Amount(value=1)
    )


@pytest.mark.parametrize(
    ("base", "total", "stays"), [("1", 6, 1), ("9", 6, 6), ("25%", 5, 2), ("100%", 5, 5), ("0", 3, 0)]
)
def test_a_base_is_a_count_or_a_share_rounded_up(base: str, total: int, stays: int) -> None:
    found = placement(f"{{market: {{prefer: spot, onDemandBase: {base}}}}}").market
    assert found is not None
    assert found.on_demand(total) == stays


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (service("{market: {}}"), "prefer"),
        (service("{market: {prefer: cheap}}"), "on-demand"),
        (service("{market: {prefer: spot, onDemandBase: 120%}}"), "120% is more than everything"),
        (service("{market: {prefer: spot}}", "{name: Chat}"), "write here what a replica needs"),
        (service("{market: {prefer: spot}}", SPOT), f"placement.market chooses the market: leave out {MARKET} here"),
        (
            f"{HEAD}  placement: {{market: {{prefer: spot}}}}\n  application: {{import_path: 'a:b'}}\n",
            "list them under",
        ),
    ],
)
def test_what_cannot_be_divided_over_markets_is_said_with_what_to_write(text: str, said: str) -> None:
    found = [str(error) for error in read(text).errors]
    assert any(said in error for error in found), found


def test_a_selector_on_the_market_is_the_services_own_while_only_zones_are_placed() -> None:
    assert not read(service("{zones: {}}", SPOT)).errors
