"""What was refused waits longer each time; what is asked anew, or went well, does not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.errors import PortError, Retry, Stalled
from reconciler.patience import Patience
from specs.effects import Effect, PutServeConfig, ScaleDeployment, ServeApplication, SetRoutes
from specs.routes import RouteTable
from tests.builders import NOW, service
from tests.sim.world import Simulation

PUT = PutServeConfig(applications=(ServeApplication(name="a", config="{}"),), removed=frozenset())
OTHER = PutServeConfig(applications=(ServeApplication(name="a", config='{"x":1}'),), removed=frozenset())
SCALE = ScaleDeployment(service="chat", application="a", deployment="Echo", target=2)


def tries(effect: Effect, error: type[PortError], *, seconds: int) -> list[int]:
    """Return the seconds at which an effect that always fails is tried when it is asked for at each."""
    patience, tried = Patience(), []
    for second in range(seconds):
        now = NOW + timedelta(seconds=second)
        try:
            patience.ask(effect, now)
            tried.append(second)
            raise error("no")
        except PortError as failure:
            patience.refused(effect, failure, now)
        patience.keep([effect])
    return tried


def test_what_a_person_must_mend_is_tried_once_a_minute_at_last() -> None:
    assert tries(PUT, Stalled, seconds=200) == [0, 1, 3, 7, 15, 31, 63, 123, 183]


def test_what_may_work_any_moment_is_tried_every_few_seconds() -> None:
    assert tries(SCALE, Retry, seconds=40) == [0, 1, 3, 7, 15, 23, 31, 39]


def test_the_error_says_how_long_to_wait_at_least() -> None:
    patience = Patience()
    patience.refused(PUT, Retry("busy", timedelta(seconds=5)), NOW)
    with pytest.raises(Retry, match="busy"):
        patience.ask(PUT, NOW + timedelta(seconds=4.9))
    patience.ask(PUT, NOW + timedelta(seconds=5))


def test_another_effect_is_tried_at_once_and_so_is_what_was_asked_for_again_later() -> None:
    patience = Patience()
    patience.refused(PUT, Stalled("no"), NOW)
    patience.ask(OTHER, NOW)
    patience.keep([OTHER])
    patience.ask(PUT, NOW)


def test_routes_are_never_waited_with() -> None:
    assert tries(SetRoutes(table=RouteTable()), Retry, seconds=3) == [0, 1, 2]


async def test_a_document_that_serve_refuses_is_put_ever_more_slowly() -> None:
    sim = Simulation()
    await sim.start()
    tried = 0

    async def refuses(change: PutServeConfig) -> None:
        nonlocal tried
        tried += 1
        raise Stalled("Serve refuses it")

    sim.serve.put = refuses  # type: ignore[method-assign]
    sim.push(service(version="v1"))
    await sim.run(65)
    assert tried == 7
    assert sim.status().message == "Serve refuses it"
