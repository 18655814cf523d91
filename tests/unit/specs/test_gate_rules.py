"""Gates in spec files: what they become, and what is wrong with them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from specs.gates import Gate, GateAt, GateKind
from tests.unit.specs.commits import read
from tests.unit.specs.test_service_rules import errors, with_rollout

SOUND = "{name: calendar, at: beforeStep, kind: confirm, url: 'https://hooks.example/a'}"


def test_a_gate_is_read_with_its_defaults() -> None:
    (service,) = read(with_rollout(f"gates:\n- {SOUND}")).services
    assert service.rollout.gates == (
        Gate(
            name="calendar",
            at=GateAt.BEFORE_STEP,
            kind=GateKind.CONFIRM,
            url="https://hooks.example/a",
            timeout=timedelta(seconds=10),
            retries=3,
            interval=timedelta(minutes=1),
        ),
    )


def test_gates_are_no_part_of_the_revision() -> None:
    (plain,), (gated,) = read(with_rollout("minReady: 1s")).services, read(with_rollout(f"gates:\n- {SOUND}")).services
    assert plain.revision == gated.revision


@pytest.mark.parametrize(
    ("gate", "error"),
    [
        (SOUND.replace("beforeStep", "before"), '8:28: "before" is not known here: write beforeStep or'),
        (SOUND.replace("confirm", "ask"), '8:46: "ask" is not known here: write confirm or notify'),
        (SOUND.replace("https:", "ftp:"), "8:60: this is no address to call: write a URL such as https://"),
        (SOUND.replace("hooks.example/a", "ann:pw@hooks.example/"), "8:60: a URL in Git must not hold credentials"),
        (SOUND.replace("hooks.example", "hooks.example:99999"), "8:60: this is no address to call"),
        (SOUND.replace("hooks.example/a", "hooks.example/a b"), "8:60: this is no address to call"),
        (SOUND.replace("calendar", "My_Gate"), "8:14: 'My_Gate' is not a DNS label"),
        (SOUND.replace("}", ", timeout: 10m}"), "8:96: the timeout of a gate must be between 100ms and 5m"),
        (SOUND.replace("}", ", retries: 11}"), "8:96: 11 is too large: write 10 or less"),
        (SOUND.replace("}", ", interval: 0}"), "8:97: others are asked at most once a second"),
        (SOUND.replace("beforeStep", "afterRollback"), "8:49: a rollback waits for nobody: write kind: notify"),
        (f"{SOUND}\n- {SOUND}", '9:14: the gate "calendar" is listed twice: give each its own name'),
    ],
)
def test_a_gate_says_what_is_wrong_with_it(gate: str, error: str) -> None:
    (found,) = errors(with_rollout(f"gates:\n- {gate}"))
    assert found.startswith(error)
    assert "pw" not in found
