"""RayServe against Ray's dashboard as simulated: what it sends, when, and what it refuses to send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from reconciler.adapters.ray_rest import RayRest
from reconciler.adapters.serve import RayServe
from reconciler.errors import Retry, Stalled
from specs.canonical import canonical_json
from specs.effects import PutServeConfig, ServeApplication
from tests.sim.fake_dashboard import APPLICATIONS, FakeDashboard

A = "chat.aaaaaaaaaaaa.-.-.1"
BUILD = timedelta(seconds=10)


@pytest.fixture
def dashboard() -> FakeDashboard:
    return FakeDashboard()


@pytest.fixture
async def serve(dashboard: FakeDashboard) -> AsyncIterator[RayServe]:
    async with RayRest("http://ray.test", transport=dashboard.transport) as rest:
        yield RayServe(rest, nodes=dashboard.instance.nodes)


def application(name: str = A, **fields: Any) -> dict[str, Any]:
    return {"name": name, "route_prefix": f"/_/{name}", "import_path": "echo:build", **fields}


def declare(*applications: dict[str, Any], removed: tuple[str, ...] = (), cut: bool = False) -> PutServeConfig:
    ours = tuple(ServeApplication(name=one["name"], config=canonical_json(one)) for one in applications)
    return PutServeConfig(applications=ours, removed=frozenset(removed), may_cut_builds=cut)


async def test_the_first_put_starts_serve_where_other_hosts_can_reach_it(
    dashboard: FakeDashboard, serve: RayServe
) -> None:
    assert not (await serve.read()).running
    await serve.put(declare(application()))
    assert dashboard.puts[0]["http_options"] == {"host": "0.0.0.0", "port": 8000, "keep_alive_timeout_s": 90}
    assert dashboard.puts[0]["proxy_location"] == "EveryNode"
    assert (await serve.read()).running


async def test_what_others_own_is_put_back_as_it_was_found(dashboard: FakeDashboard, serve: RayServe) -> None:
    theirs = application("theirs", route_prefix="/theirs", args={"b": 1, "a": [1, 2.5, None]})
    top_level = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "10.0.0.1", "port": 9999, "request_timeout_s": 5.0},
        "grpc_options": {"port": 9001, "grpc_servicer_functions": []},
        "target_capacity": 50.0,
    }
    dashboard.instance.put({**top_level, "applications": [theirs]})
    dashboard.instance.run_imperatively(application("script"))
    dashboard.advance(BUILD)
    await serve.put(declare(application()))
    assert dashboard.puts == [{**top_level, "applications": [theirs, application()]}]
    await serve.put(declare(removed=(A,), cut=True))
    assert dashboard.puts[1] == {**top_level, "applications": [theirs]}


async def test_nothing_is_sent_when_serve_holds_it_already(dashboard: FakeDashboard, serve: RayServe) -> None:
    wanted = application(deployments=[{"name": "Echo", "num_replicas": 2, "graceful_shutdown_timeout_s": 600}])
    await serve.put(declare(wanted))
    dashboard.advance(BUILD)
    await serve.put(declare(wanted, removed=("gone.bbbbbbbbbbbb.-.-.1",)))
    assert len(dashboard.puts) == 1


async def test_an_application_that_leaves_already_is_not_taken_out_again(
    dashboard: FakeDashboard, serve: RayServe
) -> None:
    await serve.put(declare(application()))
    dashboard.advance(BUILD)
    await serve.put(declare(removed=(A,)))
    await serve.put(declare(removed=(A,)))
    assert len(dashboard.puts) == 2


async def test_an_application_of_others_that_leaves_is_not_brought_back(
    dashboard: FakeDashboard, serve: RayServe
) -> None:
    dashboard.instance.put({"applications": [application("theirs", route_prefix="/theirs")]})
    dashboard.advance(BUILD)
    dashboard.instance.put({"applications": []})
    await serve.put(declare(application()))
    assert dashboard.puts[0]["applications"] == [application()]


async def test_masked_secrets_are_never_written_back(dashboard: FakeDashboard, serve: RayServe) -> None:
    masked = {"env_vars": {"KEY": "<redacted>"}}
    dashboard.instance.put({"applications": [application("theirs", runtime_env=masked)]})
    dashboard.advance(BUILD)
    with pytest.raises(Stalled, match="masks secrets"):
        await serve.put(declare(application()))
    assert dashboard.puts == []


async def test_a_config_that_serve_does_not_show_is_not_lost(dashboard: FakeDashboard, serve: RayServe) -> None:
    dashboard.instance.put({"applications": [application("theirs")]})
    dashboard.advance(BUILD)
    details = dashboard.instance.details()
    details["applications"]["theirs"]["deployed_app_config"] = None
    dashboard.answers[APPLICATIONS] = [httpx.Response(200, json=details)]
    with pytest.raises(Retry, match="would delete it"):
        await serve.put(declare(application()))
    assert dashboard.puts == []


async def test_a_broken_application_of_somebody_else_does_not_keep_ours_from_moving(
    dashboard: FakeDashboard, serve: RayServe
) -> None:
    broken = application("theirs", route_prefix="/theirs", deployments=[{"name": "X", "autoscaling_config": 5}])
    dashboard.instance.put({"applications": [broken]})
    await serve.put(declare(application(), cut=True))
    assert [one["name"] for one in dashboard.puts[0]["applications"]] == ["theirs", A]


async def test_a_route_that_somebody_else_has_is_refused(dashboard: FakeDashboard, serve: RayServe) -> None:
    dashboard.instance.put({"applications": [application("theirs", route_prefix=f"/_/{A}")]})
    dashboard.advance(BUILD)
    with pytest.raises(Stalled, match="route_prefix"):
        await serve.put(declare(application()))


async def test_a_put_that_does_not_show_is_tried_again(
    dashboard: FakeDashboard, serve: RayServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.adapters.serve.READ_BACK_WITHIN", timedelta(milliseconds=20))
    monkeypatch.setattr("reconciler.adapters.serve.READ_BACK_PAUSE", timedelta(milliseconds=5))
    dashboard.drop_puts = True
    with pytest.raises(Retry, match="another writer"):
        await serve.put(declare(application()))


async def test_a_refusal_is_told_without_the_values_it_repeats(dashboard: FakeDashboard, serve: RayServe) -> None:
    told = "1 validation error\n  Input should be valid [type=int, input_value={'KEY': 's3cret'}, input_type=dict]\n"
    dashboard.answers[APPLICATIONS] = [httpx.Response(200, json=dashboard.instance.details())]
    dashboard.answers[APPLICATIONS].append(httpx.Response(400, text=told))
    with pytest.raises(Stalled, match="Input should be valid") as raised:
        await serve.put(declare(application()))
    assert "s3cret" not in raised.value.reason


async def test_readers_share_an_answer_for_a_moment_and_a_write_ends_that(
    dashboard: FakeDashboard, serve: RayServe
) -> None:
    await serve.put(declare(application(external_scaler_enabled=True)))
    dashboard.advance(BUILD)
    before = len(dashboard.requests)
    assert (await serve.read()).cells[0].deployments[0].target == 1
    await serve.read()
    assert len(dashboard.requests) == before + 1
    await serve.scale(A, "Echo", 3)
    assert (await serve.read()).cells[0].deployments[0].target == 3


async def test_a_read_under_way_does_not_bring_the_old_state_back(dashboard: FakeDashboard, serve: RayServe) -> None:
    await serve.put(declare(application(external_scaler_enabled=True)))
    dashboard.advance(BUILD)
    read_details = serve.details

    async def slow_details() -> Any:
        found = await read_details()
        await serve.scale(A, "Echo", 2)
        return found

    serve.details = slow_details  # type: ignore[method-assign]
    await serve.read()
    serve.details = read_details  # type: ignore[method-assign]
    assert (await serve.read()).cells[0].deployments[0].target == 2


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (httpx.Response(404, json={"error": "Application or Deployment not found"}), Retry, "has no deployment Echo"),
        (httpx.Response(412, json={"error": "Deployment is deleted"}), Retry, "has no deployment Echo"),
        (httpx.Response(412, json={"error": "external_scaler_enabled is off"}), Stalled, "external_scaler_enabled"),
        (httpx.Response(400, text="what?"), Stalled, "what"),
        (httpx.Response(503, json={"error": "Serve controller is not available"}), Retry, "not available"),
    ],
)
async def test_a_refused_scale_call_says_why(
    dashboard: FakeDashboard, serve: RayServe, answer: httpx.Response, error: type[Exception], words: str
) -> None:
    dashboard.answers[f"/api/v1/applications/{A}/deployments/Echo/scale"] = [answer]
    with pytest.raises(error, match=words):
        await serve.scale(A, "Echo", 2)


async def test_unreadable_nodes_cost_the_zones_and_nothing_else(dashboard: FakeDashboard, serve: RayServe) -> None:
    await serve.put(declare(application()))
    dashboard.advance(BUILD)
    dashboard.instance.nodes.outage = "no nodes today"
    assert [endpoint.zone for endpoint in (await serve.read()).cells[0].endpoints] == [""]


IMPORTS = (
    'Traceback (most recent call last):\n  File "serve_head.py", line 162, in put_all_applications\n'
    "    config: ServeDeploySchema = ServeDeploySchema.model_validate(\nModuleNotFoundError: No module named 'ours'"
)


async def test_an_entry_that_ray_cannot_check_is_left_out_for_a_while(
    dashboard: FakeDashboard, serve: RayServe
) -> None:
    b, c = application("chat.bbbbbbbbbbbb.-.-.1"), application("chat.cccccccccccc.-.-.1")
    await serve.put(declare(application()))
    dashboard.advance(BUILD)
    failures = iter([httpx.Response(500, text=IMPORTS), httpx.Response(500, text=IMPORTS), None])
    answered = dashboard._put
    dashboard._put = lambda request: next(failures, None) or answered(request)  # type: ignore[method-assign]
    await serve.put(declare(application(), b, c))
    names = [[one["name"] for one in put["applications"]] for put in dashboard.puts[1:]]
    assert names == [[A, b["name"], c["name"]], [A, b["name"]], [A, c["name"]]]
    assert (await serve.read()).refused == {
        canonical_json(b): "Ray Serve refuses the composed document (500): ModuleNotFoundError: No module named 'ours'"
    }


async def test_a_dashboard_that_fails_blames_no_entry(dashboard: FakeDashboard, serve: RayServe) -> None:
    dashboard._put = lambda _: httpx.Response(500, text="RuntimeError: GCS gone")  # type: ignore[method-assign]
    with pytest.raises(Retry, match="GCS gone"):
        await serve.put(declare(application(), application("chat.bbbbbbbbbbbb.-.-.1")))
    assert len(dashboard.puts) == 1
    assert (await serve.read()).refused == {}


async def test_when_nothing_is_new_a_refusal_is_told_as_it_is(dashboard: FakeDashboard, serve: RayServe) -> None:
    await serve.put(declare(application()))
    dashboard.advance(BUILD)
    dashboard._put = lambda _: httpx.Response(400, text="no")  # type: ignore[method-assign]
    with pytest.raises(Stalled, match="refuses the composed document \\(400\\): no"):
        await serve.put(declare(removed=(A,)))
    assert len(dashboard.puts) == 2
