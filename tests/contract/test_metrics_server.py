"""What a metrics server promises: the fake, and a real Prometheus that scrapes a real exporter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from reconciler.adapters.prometheus import Prometheus
from reconciler.errors import PortError, Retry, Stalled
from reconciler.ports import Measured, MetricsServer
from tests.local_http import Answer, saying, serving
from tests.prometheus_server import RealPrometheus, require_prometheus, running_prometheus
from tests.sim.fake_metrics import FakeMetrics

RATE = 'errors{service="chat",revision="b77"} / requests{service="chat",revision="b77"}'
NONE = 'errors{service="nobody"}'
_SHORT = timedelta(seconds=1)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrometheus]:
    require_prometheus()
    with running_prometheus(tmp_path_factory.mktemp("prometheus")) as server:
        server.exporter.series = {
            'errors{service="chat",revision="b77"}': 5,
            'requests{service="chat",revision="b77"}': 200,
            'requests{service="chat",revision="3f9"}': 0,
        }
        yield server


@pytest.fixture(params=["fake", "real"])
async def metrics(request: pytest.FixtureRequest) -> AsyncIterator[MetricsServer]:
    if request.param == "fake":
        fake = FakeMetrics(0.025)
        fake.values[NONE] = None
        yield fake
        return
    async with Prometheus(request.getfixturevalue("real").url) as server:
        await measured(server, RATE)  # Scraped once.
        yield server


async def measured(server: MetricsServer, query: str, *, within: float = 30) -> Measured:
    """Ask until a query gives a value: what is exported shows after the next scrape."""
    deadline = time.monotonic() + within
    while (found := await server.query(query)).value is None:
        assert time.monotonic() < deadline, found.message
        await asyncio.sleep(0.2)
    return found


async def test_a_query_gives_one_number(metrics: MetricsServer) -> None:
    assert await metrics.query(RATE) == Measured(value=0.025)


async def test_no_series_is_no_number_and_no_error(metrics: MetricsServer) -> None:
    found = await metrics.query(NONE)
    assert found == Measured(value=None, message="the query gives no series")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("requests", "2 series: aggregate them"),
        ("0 * (requests / errors) / 0", "is NaN, which is no number"),
        ('requests{revision="b77"} / 0', r"is \+Inf, which is no number"),
        ("requests[1m]", "gives a matrix"),
        ('"text"', "gives a string"),
    ],
)
async def test_other_answers_are_no_numbers(real: RealPrometheus, query: str, message: str) -> None:
    async with Prometheus(real.url) as server:
        await measured(server, RATE)
        found = await server.query(f"sum({query})" if query.startswith("0 *") else query)
    assert found.value is None
    assert message.replace("\\", "") in found.message


async def test_a_scalar_is_a_number(real: RealPrometheus) -> None:
    async with Prometheus(real.url) as server:
        assert await server.query("scalar(vector(3)) / 2") == Measured(value=1.5)


async def test_a_query_that_is_wrong_needs_a_person(real: RealPrometheus) -> None:
    async with Prometheus(real.url) as server:
        with pytest.raises(Stalled, match=r"refuses the query \(400\): .*parse error"):
            await server.query("sum(")


async def test_a_server_that_stands_still_is_given_up_in_time(
    real: RealPrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.adapters.prometheus.ANSWER_WITHIN", _SHORT)
    real.freeze()
    try:
        async with Prometheus(real.url) as server:
            with pytest.raises(Retry, match="did not answer"):
                await server.query(RATE)
    finally:
        real.thaw()
    async with Prometheus(real.url) as server:
        assert (await measured(server, RATE)).value == 0.025


# -- HTTP alone -------------------------------------------------------------------------------------------------


async def test_without_a_server_a_person_must_act() -> None:
    async with Prometheus("") as server:
        with pytest.raises(Stalled, match="--prometheus URL"):
            await server.query("1")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (saying(503, b"starting"), Retry),
        (saying(500, b'{"status": "error", "error": "boom"}'), Retry),
        (saying(200, b"<html>"), Retry),
        (saying(200, b'{"status": "success"}'), Retry),
        (saying(200, b'{"status": "success", "data": {"resultType": "vector", "result": [7]}}'), Retry),
        (saying(200, b"x" * 300_000), Retry),
        (saying(401), Stalled),
        (saying(422, b'{"status": "error", "error": "too many samples"}'), Stalled),
        (saying(302, Location="http://169.254.169.254/"), Stalled),
    ],
)
async def test_what_is_no_answer_is_an_error(answer: Answer, error: type[PortError]) -> None:
    async with serving(answer) as local, Prometheus(local.url) as server:
        with pytest.raises(error):
            await server.query("up")


async def test_credentials_and_path_of_the_address_are_used_and_not_shown() -> None:
    async with serving(saying(403)) as local:
        async with Prometheus(f"http://ann:s%20cret@127.0.0.1:{local.port}/prom") as server:
            with pytest.raises(Stalled) as refused:
                await server.query('a{b="c d"}')
        (heard,) = local.heard
    assert heard.path == "/prom/api/v1/query?query=a%7Bb%3D%22c+d%22%7D"
    assert heard.headers["authorization"] == "Basic YW5uOnMgY3JldA=="
    assert "cret" not in refused.value.reason
