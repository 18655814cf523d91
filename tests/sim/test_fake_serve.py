"""What the simulation does beyond the suite that it shares with a real cluster: faults, demand, and its record."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.errors import Retry
from specs.observed import CellStatus, ReplicaState
from tests.contract.serve_drivers import Driver, cell, fake_driver, running
from tests.ray_cluster import echo_application
from tests.sim.fake_serve import FakeServe

A = "chat.aaaaaaaaaaaa.-.-.1"
B = "chat.bbbbbbbbbbbb.-.-.1"


@pytest.fixture
def driver() -> Driver:
    return fake_driver()


def simulated(driver: Driver) -> FakeServe:
    assert isinstance(driver.serve, FakeServe)
    return driver.serve


def autoscaled(**bounds: Any) -> dict[str, Any]:
    application = echo_application(A, replicas=None)
    return {
        **application,
        "external_scaler_enabled": False,
        "deployments": [{"name": "Echo", "autoscaling_config": bounds}],
    }


async def test_a_crash_loop_makes_a_running_deployment_unhealthy_and_never_ends(driver: Driver) -> None:
    await driver.put(echo_application(A, replicas=2, sick_seconds=20))
    await driver.until(running(A, "Echo", 2))
    seen = await driver.until(lambda now: cell(now, A).status is CellStatus.UNHEALTHY)
    assert "health check failed" in cell(seen, A).deployments[0].message
    await driver.pass_time(timedelta(minutes=5))
    seen = await driver.until(lambda now: cell(now, A).status is CellStatus.UNHEALTHY)
    assert cell(seen, A).deployments[0].live == 2


async def test_failing_health_during_an_update_is_a_failed_deployment(driver: Driver) -> None:
    await driver.put(echo_application(A, sick_seconds=0))
    await driver.until(lambda now: cell(now, A).status is CellStatus.DEPLOY_FAILED)


async def test_an_application_told_to_be_sick_recovers_when_it_is_not(driver: Driver) -> None:
    await driver.put(echo_application(A))
    await driver.until(lambda now: cell(now, A).status is CellStatus.RUNNING)
    simulated(driver).book.sick.add(A)
    await driver.until(lambda now: cell(now, A).status is CellStatus.UNHEALTHY)
    simulated(driver).book.sick.clear()
    await driver.until(lambda now: cell(now, A).status is CellStatus.RUNNING)


async def test_the_autoscaler_follows_demand_within_its_bounds_and_the_application_stays_running(
    driver: Driver,
) -> None:
    await driver.put(autoscaled(min_replicas=1, max_replicas=3))
    await driver.until(lambda now: cell(now, A).status is CellStatus.RUNNING)
    simulated(driver).want(A, "Echo", 9)
    seen = await driver.until(running(A, "Echo", 3))
    assert cell(seen, A).status is CellStatus.RUNNING
    simulated(driver).want(A, "Echo", 0)
    await driver.until(running(A, "Echo", 1))


async def test_initial_replicas_in_an_update_reset_the_count(driver: Driver) -> None:
    await driver.put(autoscaled(min_replicas=1, max_replicas=5, initial_replicas=2))
    await driver.until(running(A, "Echo", 2))
    simulated(driver).want(A, "Echo", 5)
    await driver.until(running(A, "Echo", 5))
    del simulated(driver).instance.wanted[A, "Echo"]
    await driver.put(autoscaled(min_replicas=1, max_replicas=6, initial_replicas=2))
    await driver.until(running(A, "Echo", 2))


async def test_switching_between_a_count_and_bounds_restarts_every_replica(driver: Driver) -> None:
    await driver.put(echo_application(A, replicas=2))
    before = cell(await driver.until(running(A, "Echo", 2)), A).deployments[0].replicas
    await driver.put(autoscaled(min_replicas=2, max_replicas=2))
    after = cell(await driver.until(running(A, "Echo", 2)), A).deployments[0].replicas
    assert {replica.id for replica in before}.isdisjoint(replica.id for replica in after)


async def test_a_dead_nodes_replicas_come_back_elsewhere(driver: Driver) -> None:
    await driver.put(echo_application(A, replicas=3))
    seen = await driver.until(running(A, "Echo", 3))
    assert {endpoint.zone for endpoint in cell(seen, A).endpoints} == {"a", "b", "c"}
    simulated(driver).nodes.kill("node1")
    await driver.until(lambda now: len(cell(now, A).endpoints) == 2)
    seen = await driver.until(running(A, "Echo", 3))
    assert {endpoint.zone for endpoint in cell(seen, A).endpoints} == {"b", "c"}


async def test_a_draining_nodes_replicas_serve_until_their_replacements_do(driver: Driver) -> None:
    await driver.put(echo_application(A, replicas=3))
    await driver.until(running(A, "Echo", 3))
    simulated(driver).nodes.drain("node1")
    lowest = 3
    seen = await driver.serve.read()
    while any(replica.node == "node1" for replica in cell(seen, A).deployments[0].replicas):
        lowest = min(lowest, cell(seen, A).deployments[0].count(ReplicaState.RUNNING))
        await driver.pass_time(timedelta(milliseconds=500))
        seen = await driver.serve.read()
    assert lowest == 3
    assert simulated(driver).peak("chat", "Echo") == 4


async def test_a_lost_head_forgets_everything(driver: Driver) -> None:
    await driver.put(echo_application(A, replicas=2))
    await driver.until(running(A, "Echo", 2))
    simulated(driver).lose_head()
    seen = await driver.serve.read()
    assert (seen.running, seen.cells) == (False, ())
    assert simulated(driver).live("chat", "Echo") == 0


async def test_faults_are_told_as_faults_and_change_nothing(driver: Driver) -> None:
    await driver.put(echo_application(A))
    serve = simulated(driver)
    serve.unseen.add(A)
    with pytest.raises(Retry, match="not complete"):
        await serve.read()
    serve.unseen.clear()
    serve.write_outage = "no writes today"
    with pytest.raises(Retry, match="no writes"):
        await driver.put(echo_application(B), cut=True)
    assert [one.name for one in (await serve.read()).cells] == [A]
    serve.outage = "nothing today"
    with pytest.raises(Retry, match="nothing"):
        await serve.read()


async def test_the_record_tells_puts_cuts_scales_and_every_change_of_a_services_replicas(driver: Driver) -> None:
    serve = simulated(driver)
    await driver.put(echo_application(A, replicas=2))
    await driver.put(echo_application(A, replicas=2), echo_application(B), cut=True)
    assert [(put.applications, put.cut) for put in serve.puts] == [((A,), ()), ((A, B), (A,))]
    await driver.until(running(A, "Echo", 2))
    await driver.until(running(B, "Echo", 1))
    assert (serve.live("chat", "Echo"), serve.serving("chat", "Echo")) == (3, 3)
    await serve.scale(A, "Echo", 1)
    assert (serve.live("chat", "Echo"), serve.serving("chat", "Echo")) == (3, 2)
    await driver.until(running(A, "Echo", 1))
    assert serve.live("chat", "Echo") == 2
    assert serve.peak("chat", "Echo") == 3
    assert [(scale.application, scale.deployment, scale.target) for scale in serve.scales] == [(A, "Echo", 1)]
    assert [sample.live for sample in serve.samples][-1] == 2


async def test_long_quiet_times_cost_nothing_and_change_nothing(driver: Driver) -> None:
    await driver.put(echo_application(A))
    before = await driver.until(lambda now: cell(now, A).status is CellStatus.RUNNING)
    await driver.pass_time(timedelta(days=30))
    assert await driver.serve.read() == before


async def test_a_deployment_that_was_given_up_starts_nothing_more(driver: Driver) -> None:
    await driver.put(echo_application(A, fail_start="no such file"))
    await driver.until(lambda now: cell(now, A).status is CellStatus.DEPLOY_FAILED)
    before = len(simulated(driver).samples)
    await driver.pass_time(timedelta(minutes=2))
    assert cell(await driver.serve.read(), A).deployments[0].live == 0
    assert len(simulated(driver).samples) <= before + 1


async def test_replicas_that_cannot_start_beside_running_ones_are_tried_for_ever_without_a_word(driver: Driver) -> None:
    await driver.put(echo_application(A))
    await driver.until(lambda now: cell(now, A).status is CellStatus.RUNNING)
    echo = simulated(driver).instance.applications[A].deployments["Echo"]
    echo.behaviour = replace(echo.behaviour, fail_start="no such file")
    await driver.serve.scale(A, "Echo", 2)
    await driver.pass_time(timedelta(minutes=2))
    found = cell(await driver.serve.read(), A)
    assert found.status is CellStatus.RUNNING
    assert found.deployments[0].count(ReplicaState.RUNNING) == 1


async def test_without_direct_ingress_only_proxies_take_requests(driver: Driver) -> None:
    simulated(driver).instance.direct_ingress = False
    await driver.put(echo_application(A))
    seen = await driver.until(running(A, "Echo", 1))
    assert cell(seen, A).endpoints == ()
    assert [proxy.zone for proxy in seen.proxies] == ["a", "b", "c"]


async def test_an_application_of_a_script_outlives_every_put(driver: Driver) -> None:
    simulated(driver).instance.run_imperatively(echo_application("script"))
    await driver.put(echo_application(A), cut=True)
    await driver.put_by_somebody_else()
    seen = await driver.until(lambda now: len(now.cells) == 1)
    assert [(one.name, one.config) for one in seen.cells] == [("script", None)]


async def test_old_code_drains_while_new_code_starts(driver: Driver) -> None:
    await driver.put(echo_application(A, revision="one"))
    await driver.until(running(A, "Echo", 1))
    await driver.put(echo_application(A, revision="two"))
    await driver.until(running(A, "Echo", 1))
    assert simulated(driver).peak("chat", "Echo") == 2
