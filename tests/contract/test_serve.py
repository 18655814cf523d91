"""What Heliostat relies on of ports.Serve, held on the simulation and on a real Ray cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from reconciler.errors import Retry, Stalled
from reconciler.ports import ServeSeen
from specs.canonical import canonical_json
from specs.observed import CellStatus, ReplicaState
from specs.serve_document import same_application
from tests.contract.serve_drivers import Driver, cell, fake_driver, real_driver, running
from tests.ray_cluster import DRAIN, echo_application, echo_package

A = "chat.aaaaaaaaaaaa.-.-.1"
B = "chat.bbbbbbbbbbbb.-.-.1"
C = "chat.cccccccccccc.-.-.1"


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.ray)])
def driver(request: pytest.FixtureRequest) -> Driver:
    """Return the simulation, then the test cluster."""
    return fake_driver() if request.param == "simulated" else real_driver(request.getfixturevalue("ray_adapters"))


facts_of_ray = pytest.mark.parametrize(
    "driver", ["simulated", pytest.param("real", marks=[pytest.mark.ray, pytest.mark.slow])], indirect=True
)
"""What only another version of Ray can change, and end-to-end tests meet anyway: `make test-full` asks the real one."""


def only_names(seen: ServeSeen) -> list[str]:
    return [found.name for found in seen.cells]


@facts_of_ray
async def test_an_application_builds_without_deployments_and_then_runs_at_its_endpoints(driver: Driver) -> None:
    application = echo_application(A, replicas=2)
    await driver.put(application)
    building = cell(await driver.serve.read(), A)
    assert building.is_building
    assert building.is_declarative
    assert building.endpoints == ()
    assert building.config is not None
    assert same_application(canonical_json(application), building.config)

    seen = await driver.until(running(A, "Echo", 2))
    found = cell(seen, A)
    echo = found.deployment("Echo")
    assert echo is not None
    assert echo.is_ingress
    assert not echo.is_autoscaled
    assert echo.target == 2
    assert found.route_prefix == f"/_/{A}"
    assert {endpoint.replica for endpoint in found.endpoints} == {replica.id for replica in echo.replicas}
    assert {endpoint.zone for endpoint in found.endpoints} <= {"a", "b", "c"}
    assert {endpoint.node for endpoint in found.endpoints} == {replica.node for replica in echo.replicas}
    assert (await driver.until(lambda now: cell(now, A).status is CellStatus.RUNNING)).running


@facts_of_ray
async def test_a_put_that_changes_nothing_is_not_sent(driver: Driver) -> None:
    await driver.put(echo_application(A))
    before = cell(await driver.until(running(A, "Echo", 1)), A).last_deployed_at
    await driver.pass_time(timedelta(seconds=1))
    await driver.put(echo_application(A), removed=(B,))
    assert cell(await driver.serve.read(), A).last_deployed_at == before


async def test_a_build_is_not_cut_unless_that_is_asked_for(driver: Driver) -> None:
    slow = echo_application(A, build_seconds=8)
    await driver.put(slow)
    await driver.pass_time(timedelta(seconds=1))
    with pytest.raises(Retry, match="builds"):
        await driver.put(slow, echo_application(B))
    assert only_names(await driver.serve.read()) == [A]
    # Taking the building application away cuts nothing that anybody wants.
    await driver.put(echo_application(B), removed=(A,))
    await driver.until(running(B, "Echo", 1))


@facts_of_ray
async def test_a_put_starts_a_build_in_progress_again(driver: Driver) -> None:
    slow = echo_application(A, build_seconds=6)
    await driver.put(slow)
    began = driver.elapsed()
    await driver.pass_time(timedelta(seconds=5))
    await driver.put(slow, echo_application(B), cut=True)
    await driver.until(running(A, "Echo", 1))
    assert driver.elapsed() - began > timedelta(seconds=11)


async def test_counts_move_by_the_scale_call_and_survive_the_puts_of_others(driver: Driver) -> None:
    await driver.put(echo_application(A, replicas=1))
    await driver.until(running(A, "Echo", 1))
    await driver.until(lambda seen: cell(seen, A).status is CellStatus.RUNNING)
    await driver.serve.scale(A, "Echo", 3)
    seen = await driver.until(running(A, "Echo", 3))
    # Unlike a count in a PUT, the call leaves the status alone.
    assert cell(seen, A).status is CellStatus.RUNNING
    await driver.put(echo_application(A, replicas=1), echo_application(B))
    await driver.until(running(B, "Echo", 1))
    assert running(A, "Echo", 3)(await driver.serve.read())


async def test_a_stopping_replica_leaves_the_endpoints_at_once_and_holds_its_place_for_its_drain(
    driver: Driver,
) -> None:
    await driver.put(echo_application(A, replicas=2))
    await driver.until(lambda seen: bool(seen.cells) and cell(seen, A).status is CellStatus.RUNNING)
    began = driver.elapsed()
    await driver.put(echo_application(A, replicas=1))
    seen = await driver.until(lambda now: len(cell(now, A).endpoints) == 1, within=DRAIN)
    echo = cell(seen, A).deployment("Echo")
    assert echo is not None
    assert (echo.target, echo.live, echo.count(ReplicaState.STOPPING)) == (1, 2, 1)
    assert cell(seen, A).status is CellStatus.DEPLOYING
    assert not cell(seen, A).is_building
    await driver.until(running(A, "Echo", 1))
    assert driver.elapsed() - began >= DRAIN
    await driver.until(lambda now: cell(now, A).status is CellStatus.RUNNING, within=timedelta(seconds=5))


@facts_of_ray
async def test_a_removed_application_goes_and_foreign_ones_stay(driver: Driver) -> None:
    foreign = echo_application("theirs", revision="theirs")
    await driver.put_by_somebody_else(foreign)
    await driver.until(running("theirs", "Echo", 1))
    await driver.put(echo_application(A))
    seen = await driver.until(running(A, "Echo", 1))
    before = cell(seen, "theirs").deployment("Echo")
    await driver.put(removed=(A,))
    assert cell(await driver.serve.read(), A).status is CellStatus.DELETING
    seen = await driver.until(lambda now: only_names(now) == ["theirs"])
    after = cell(seen, "theirs").deployment("Echo")
    assert before is not None
    assert after is not None
    assert [replica.id for replica in after.replicas] == [replica.id for replica in before.replicas]
    config = cell(seen, "theirs").config
    assert config is not None
    assert same_application(canonical_json(foreign), config)


@facts_of_ray
async def test_an_application_that_is_put_again_while_it_goes_is_built_anew(driver: Driver) -> None:
    """What somebody took away and we put back at once does not keep its replicas: they drain beside the new ones."""
    await driver.put(echo_application(A, replicas=1))
    old = cell(await driver.until(running(A, "Echo", 1)), A).deployments[0].replicas[0].id
    await driver.put_by_somebody_else()
    await driver.until(lambda seen: cell(seen, A).status is CellStatus.DELETING, within=DRAIN)
    await driver.put(echo_application(A, replicas=1))
    assert cell(await driver.serve.read(), A).status is CellStatus.DEPLOYING

    def renewed(seen: ServeSeen) -> bool:
        echo = cell(seen, A).deployment("Echo")
        return echo is not None and any(r.id != old and r.state is ReplicaState.RUNNING for r in echo.replicas)

    await driver.until(renewed)
    await driver.until(lambda seen: running(A, "Echo", 1)(seen) and not _has(seen, old))


def _has(seen: ServeSeen, replica: str) -> bool:
    return any(found.id == replica for one in seen.cells for part in one.deployments for found in part.replicas)


@facts_of_ray
async def test_a_failed_build_says_why_has_no_deployments_and_is_tried_again_by_any_put(driver: Driver) -> None:
    bad = echo_application(A, fail_build="no such layer")
    await driver.put(bad)
    seen = await driver.until(lambda now: cell(now, A).status is CellStatus.DEPLOY_FAILED)
    assert "no such layer" in cell(seen, A).message
    assert cell(seen, A).deployments == ()
    assert not cell(seen, A).is_building
    await driver.put(bad, echo_application(B))
    assert cell(await driver.serve.read(), A).status is CellStatus.DEPLOYING


@facts_of_ray
async def test_a_failed_start_is_given_up_and_a_larger_count_revives_it(driver: Driver) -> None:
    await driver.put(echo_application(A, fail_start="no such file"))
    seen = await driver.until(lambda now: cell(now, A).status is CellStatus.DEPLOY_FAILED)
    echo = cell(seen, A).deployment("Echo")
    assert echo is not None
    assert "no such file" in echo.message
    assert echo.count(ReplicaState.RUNNING) == 0
    assert cell(seen, A).endpoints == ()
    await driver.serve.scale(A, "Echo", 2)
    await driver.until(
        lambda now: any(one.count(ReplicaState.STARTING) for one in cell(now, A).deployments),
        within=timedelta(seconds=10),
    )


@facts_of_ray
async def test_an_application_that_fits_no_node_builds_for_ever_and_says_nothing(driver: Driver) -> None:
    lost = echo_application(A)
    lost["deployments"][0]["ray_actor_options"] = {
        "num_cpus": 0.1,
        "label_selector": {"ray.io/availability-zone": "nowhere"},
    }
    await driver.put(lost)
    await driver.pass_time(timedelta(seconds=12))
    found = cell(await driver.serve.read(), A)
    assert found.is_building
    assert found.message == ""
    # Only taking it away ends that.
    await driver.put(removed=(A,))
    await driver.until(lambda now: only_names(now) == [])


@facts_of_ray
async def test_a_selector_keeps_replicas_in_their_zone(driver: Driver) -> None:
    pinned = echo_application(A, replicas=3)
    pinned["deployments"][0]["ray_actor_options"] = {
        "num_cpus": 0.1,
        "label_selector": {"ray.io/availability-zone": "b"},
    }
    await driver.put(pinned)
    seen = await driver.until(running(A, "Echo", 3))
    assert {endpoint.zone for endpoint in cell(seen, A).endpoints} == {"b"}


@facts_of_ray
async def test_a_replica_without_room_waits_without_a_node(driver: Driver) -> None:
    large = echo_application(A)
    large["deployments"][0] |= {"ray_actor_options": {"num_cpus": 64}, "graceful_shutdown_timeout_s": 15}
    await driver.put(large)
    seen = await driver.until(lambda now: any(one.replicas for one in cell(now, A).deployments))
    echo = cell(seen, A).deployment("Echo")
    assert echo is not None
    assert [(replica.state, replica.node) for replica in echo.replicas] == [(ReplicaState.STARTING, "")]
    assert cell(seen, A).endpoints == ()
    # Serve goes on listing it for its whole grace period; it holds nothing, so it is not counted.
    await driver.put(removed=(A,))
    seen = await driver.until(lambda now: all(one.live == 0 for one in cell(now, A).deployments))
    assert cell(seen, A).status is CellStatus.DELETING
    await driver.pass_time(timedelta(seconds=5))
    assert only_names(await driver.serve.read()) == [A]


@facts_of_ray
async def test_deployments_that_are_not_listed_start_at_their_codes_count_and_can_be_scaled(driver: Driver) -> None:
    await driver.put(echo_application(A, replicas=1, with_backend=True))
    seen = await driver.until(running(A, "Backend", 2))
    backend = cell(seen, A).deployment("Backend")
    assert backend is not None
    assert not backend.is_ingress
    await driver.until(running(A, "Echo", 1))
    await driver.serve.scale(A, "Backend", 3)
    await driver.until(running(A, "Backend", 3))


@facts_of_ray
async def test_scaling_what_is_not_there_or_scales_itself_is_refused(driver: Driver) -> None:
    await driver.put({**echo_application(A), "external_scaler_enabled": False})
    await driver.until(running(A, "Echo", 1))
    with pytest.raises(Stalled, match="external_scaler_enabled"):
        await driver.serve.scale(A, "Echo", 2)
    with pytest.raises(Retry):
        await driver.serve.scale(B, "Echo", 2)
    await driver.put(echo_application(B), removed=(A,))
    await driver.until(running(B, "Echo", 1))
    with pytest.raises(Retry):
        await driver.serve.scale(B, "Nobody", 2)


def autoscaled(low: int, high: int) -> dict[str, Any]:
    application = echo_application(A, replicas=None)
    bounds = {"min_replicas": low, "max_replicas": high, "downscale_delay_s": 1.0}
    return {
        **application,
        "external_scaler_enabled": False,
        "deployments": [{"name": "Echo", "autoscaling_config": bounds}],
    }


@facts_of_ray
async def test_bounds_move_an_autoscaled_deployment_without_restarting_it(driver: Driver) -> None:
    await driver.put(autoscaled(1, 2))
    seen = await driver.until(running(A, "Echo", 1))
    first = cell(seen, A).deployment("Echo")
    assert first is not None
    assert first.is_autoscaled
    await driver.put(autoscaled(2, 3))
    seen = await driver.until(running(A, "Echo", 2))
    grown = cell(seen, A).deployment("Echo")
    assert grown is not None
    assert {replica.id for replica in first.replicas} < {replica.id for replica in grown.replicas}


async def test_an_invalid_application_is_refused_before_anything_happens(driver: Driver) -> None:
    await driver.put(echo_application(A))
    before = cell(await driver.until(running(A, "Echo", 1)), A)
    wrong = echo_application(B)
    wrong["deployments"][0]["max_ongoing_requests"] = 0
    with pytest.raises(Stalled, match="max_ongoing_requests"):
        await driver.put(echo_application(A), wrong)
    unknown = echo_application(B)
    unknown["deployments"][0]["replicas"] = 2
    with pytest.raises(Stalled, match="replicas: Serve does not know"):
        await driver.put(echo_application(A), unknown)
    after = cell(await driver.serve.read(), A)
    assert (after.last_deployed_at, after.status) == (before.last_deployed_at, before.status)


async def test_an_entry_that_ray_cannot_check_keeps_no_other_from_starting(driver: Driver) -> None:
    """Ray's dashboard imports request routers when it checks a document, and refuses it whole if it cannot."""
    old, bad = echo_application(A), echo_application(B)
    bad["deployments"][0]["request_router_config"] = {"request_router_class": "surely_not_installed.router:Router"}
    await driver.put(old)
    await driver.until(running(A, "Echo", 1))
    with pytest.raises(Stalled, match="surely_not_installed"):
        await driver.put(old, bad)
    assert only_names(await driver.serve.read()) == [A]

    await driver.put(old, bad, echo_application(C))
    seen = await driver.until(running(C, "Echo", 1))
    assert only_names(seen) == [A, C]
    assert "surely_not_installed" in seen.refused[canonical_json(bad)]
    await driver.put(bad, echo_application(C), removed=(A,))
    await driver.until(lambda now: only_names(now) == [C])


@facts_of_ray
async def test_another_writers_put_takes_our_applications_away(driver: Driver) -> None:
    await driver.put(echo_application(A))
    await driver.until(running(A, "Echo", 1))
    await driver.put_by_somebody_else()
    await driver.until(lambda seen: only_names(seen) == [] or cell(seen, A).status is CellStatus.DELETING)


@facts_of_ray
async def test_new_code_under_a_live_name_hides_and_restarts_every_replica(driver: Driver) -> None:
    await driver.put(echo_application(A, revision="one"))
    old = cell(await driver.until(running(A, "Echo", 1)), A).deployment("Echo")
    await driver.put(echo_application(A, revision="two"))
    assert cell(await driver.serve.read(), A).deployments == ()
    assert old is not None
    before = {replica.id for replica in old.replicas}

    def restarted(seen: ServeSeen) -> bool:
        """Right after the build the old replica may still be shown: the new code replaces it a moment later."""
        new = cell(seen, A).deployment("Echo") if only_names(seen) else None
        return new is not None and before.isdisjoint(replica.id for replica in new.replicas)

    await driver.until(lambda seen: running(A, "Echo", 1)(seen) and restarted(seen))


async def test_a_package_is_there_once_it_was_uploaded(driver: Driver) -> None:
    package = echo_package()
    other = "gcs://_ray_pkg_00ff00ff00ff.zip"
    assert not await driver.packages.has(other)
    await driver.packages.upload(package.uri, package.content)
    await driver.packages.upload(package.uri, package.content)
    assert await driver.packages.has(package.uri)


async def test_nodes_tell_their_zones_and_what_they_have(driver: Driver) -> None:
    workers = [node for node in await driver.nodes.read() if node.is_alive and not node.is_head]
    assert sorted(node.zone or "" for node in workers) == ["a", "b", "c"]
    assert all(node.resources["CPU"] == 4.0 for node in workers)
