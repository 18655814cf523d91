"""Windows on the wall clocks of their time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs.windows import Window, is_open, opens_at, read_window, read_zone
from tests.unit.specs.commits import read

BERLIN = "Europe/Berlin"


def allow(text: str, zone: str = "UTC") -> Window:
    return read_window(text, is_allowed=True, zone=zone)


def deny(text: str, zone: str = "UTC") -> Window:
    return read_window(text, is_allowed=False, zone=zone)


def at(text: str, zone: str = "UTC", fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=read_zone(zone), fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("text", "moment", "inside"),
    [
        ("Mon-Fri 09:00-17:00", "2026-11-23T09:00", True),
        ("Mon-Fri 09:00-17:00", "2026-11-23T08:59:59", False),
        ("Mon-Fri 09:00-17:00", "2026-11-23T16:59:59", True),
        ("Mon-Fri 09:00-17:00", "2026-11-23T17:00", False),
        ("Mon-Fri 09:00-17:00", "2026-11-22T12:00", False),
        ("Fri-Mon", "2026-11-22T12:00", True),
        ("Fri-Mon", "2026-11-24T00:00", False),
        ("Sat,Sun", "2026-11-22T23:59", True),
        ("tue,thu-fri 00:00-24:00", "2026-11-26T23:59", True),
        ("Fri 22:00-06:00", "2026-11-27T23:00", True),
        ("Fri 22:00-06:00", "2026-11-28T05:59", True),
        ("Fri 22:00-06:00", "2026-11-28T06:00", False),
        ("Fri 22:00-06:00", "2026-11-28T22:00", False),
        ("Fri 22:00-06:00", "2026-11-27T05:00", False),
        ("Sun 22:00-06:00", "2026-11-23T05:00", True),
        ("daily 22:00-06:00", "2026-11-25T03:00", True),
    ],
)
def test_days_and_hours(text: str, moment: str, inside: bool) -> None:
    assert allow(text, BERLIN).contains(at(moment, BERLIN)) is inside


def test_the_zone_decides_which_day_it_is() -> None:
    window = allow("Mon 00:00-02:00", "Pacific/Auckland")
    assert window.contains(datetime(2026, 11, 22, 12, 0, tzinfo=UTC))
    assert not window.contains(datetime(2026, 11, 23, 1, 0, tzinfo=UTC))


def test_deny_wins_and_without_an_allow_all_else_is_open() -> None:
    monday = at("2026-11-23T12:00")
    assert is_open((), monday)
    assert is_open((deny("Fri"),), monday)
    assert not is_open((deny("Fri"),), at("2026-11-27T12:00"))
    assert not is_open((allow("Mon-Fri"), deny("Mon 11:00-13:00")), monday)
    assert not is_open((allow("Tue"),), monday)
    assert is_open((allow("Tue"), allow("Mon")), monday)


@pytest.mark.parametrize(
    ("windows", "now", "opens"),
    [
        ((allow("Mon-Fri 09:00-17:00", BERLIN),), at("2026-11-20T18:00", BERLIN), at("2026-11-23T09:00", BERLIN)),
        ((deny("Fri 12:00-08:00"),), at("2026-11-27T13:00"), at("2026-11-28T08:00")),
        ((allow("daily 09:00-17:00"), deny("Mon")), at("2026-11-23T10:00"), at("2026-11-24T09:00")),
        ((allow("Mon"), deny("Mon")), at("2026-11-23T10:00"), None),
        ((deny("daily"),), at("2026-11-23T10:00"), None),
    ],
)
def test_when_it_opens_next(windows: tuple[Window, ...], now: datetime, opens: datetime | None) -> None:
    assert opens_at(windows, now) == opens


def test_an_hour_that_the_clocks_leave_out_opens_with_the_jump() -> None:
    """On 2026-03-29 in Berlin 02:00 becomes 03:00."""
    window = allow("Sun 02:30-05:00", BERLIN)
    jump = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert not window.contains(jump - timedelta(seconds=1))
    assert window.contains(jump)
    opens = opens_at((window,), jump - timedelta(hours=2))
    assert opens is not None
    assert abs(opens - jump) <= timedelta(minutes=1)


def test_an_hour_that_comes_twice_is_open_twice() -> None:
    """On 2026-10-25 in Berlin 03:00 becomes 02:00 again."""
    window = allow("Sun 02:00-02:30", BERLIN)
    first, second = at("2026-10-25T02:15", BERLIN), at("2026-10-25T02:15", BERLIN, fold=1)
    assert second - first == timedelta(hours=1)
    assert window.contains(first)
    assert window.contains(second)
    assert not window.contains(first + timedelta(minutes=30))
    assert opens_at((window,), first + timedelta(minutes=20)) == at("2026-10-25T02:00", BERLIN, fold=1)


zones = st.sampled_from(["UTC", BERLIN, "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"])
hours = st.sampled_from(["", " 09:00-17:00", " 22:00-06:00", " 02:10-02:50", " 00:00-00:30", " 23:00-24:00"])
days = st.sampled_from(["Mon-Fri", "Sat,Sun", "daily", "Sun", "Thu-Tue"])
drawn = st.builds(
    lambda day, hour, zone, allowed: read_window(day + hour, is_allowed=allowed, zone=zone),
    days,
    hours,
    zones,
    st.booleans(),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(windows=st.lists(drawn, min_size=1, max_size=3).map(tuple), hour=st.integers(0, 24 * 365))
def test_it_opens_when_it_says_and_never_before(windows: tuple[Window, ...], hour: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
    if is_open(windows, now):
        return
    opens = opens_at(windows, now)
    minutes = (now + timedelta(minutes=10 * step) for step in range(6 * 24 * 14))
    by_hand = next((minute for minute in minutes if is_open(windows, minute)), None)
    if opens is None:
        assert by_hand is None
        return
    assert is_open(windows, opens)
    assert by_hand is None or opens - timedelta(minutes=10) <= by_hand
    assert by_hand is None or by_hand <= opens + timedelta(minutes=10) or not is_open(windows, opens - timedelta(1))


POLICY = """apiVersion: heliostat.dev/v1alpha1
kind: ClusterPolicy
metadata: {{name: default}}
spec:
  windows:
    - {}
"""


def test_a_policy_says_windows() -> None:
    text = POLICY.format("{allow: Mon-Fri 09:00-17:00, timezone: Europe/Berlin}")
    (window,) = read(text).settings.windows
    assert window == allow("Mon-Fri 09:00-17:00", BERLIN)


@pytest.mark.parametrize(
    ("window", "error"),
    [
        ("{allow: Mon-Fri 9-17}", "is not a window: write days and hours"),
        ("{deny: Mondays}", "is not a window"),
        ("{allow: Mon 25:00-26:00}", "is not a window"),
        ("{allow: Mon 09:00-09:00}", "begins and ends at the same time"),
        ("{allow: Mon, deny: Tue}", "exactly one of allow and deny"),
        ("{timezone: UTC}", "exactly one of allow and deny"),
        ("{allow: Mon, timezone: Berlin}", "is not a time zone"),
        ("{allow: Mon, timezone: Europe}", "is not a time zone"),
        ("{allow: Mon, timezone: ../../etc/passwd}", "is not a time zone"),
        ("{allow: Mon, timeZone: UTC}", "write timezone"),
    ],
)
def test_a_wrong_window_says_where_and_what_to_write(window: str, error: str) -> None:
    desired = read(POLICY.format(window))
    assert [str(found).startswith("a.yaml:6:") and error in found.message for found in desired.errors] == [True]
    assert not desired.is_policy_known


def test_all_that_is_wrong_with_windows_is_listed_at_its_own_place() -> None:
    first = "{allow: Mon-Fry 09:00-17:00, timezone: Mars/X}"
    desired = read(POLICY.format(first + "\n    - {deny: Sun 9-17}"))
    found = [(str(error).split(" ")[0], error.message.split(":")[0]) for error in desired.errors]
    assert found == [
        ("a.yaml:6:15:", "'Mon-Fry 09"),
        ("a.yaml:6:46:", "'Mars/X' is not a time zone"),
        ("a.yaml:7:14:", "'Sun 9-17' is not a window"),
    ]


def test_edges_never_lie_in_the_past() -> None:
    now = at("2026-11-23T12:00")
    edges = sorted(allow("daily 09:00-17:00").edges(now))
    assert all(edge > now for edge in edges)
    assert all(second >= first for first, second in pairwise(edges))
