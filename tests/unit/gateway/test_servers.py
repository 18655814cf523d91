"""Servers: names that say what they are, endpoints that come and go, and the way out of HAProxy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reconciler.gateway.admin import ServerStat
from reconciler.gateway.servers import (
    Known,
    add_commands,
    merge,
    read_server,
    removal_commands,
    server_address,
    server_name,
    to_probe,
)
from specs.observed import Endpoint

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UNSEEN = timedelta(minutes=2)


def endpoint(replica: str, port: int = 30000, ip: str = "10.0.0.1") -> Endpoint:
    return Endpoint(ip=ip, port=port, replica=replica)


def stat(status: str, in_flight: int = 0) -> ServerStat:
    return ServerStat(name="one_1", address="10.0.0.1:1", status=status, is_up=False, in_flight=in_flight)


@pytest.mark.parametrize("replica", ["abc123", "SERVE_REPLICA::chat.1.-.-.0#Chat#x9", "a b/ü~;\\", "under_score"])
@pytest.mark.parametrize("ip", ["10.0.0.1", "fd00::1"])
def test_a_server_s_name_and_address_say_which_replica_it_is(replica: str, ip: str) -> None:
    given = endpoint(replica, ip=ip)
    name = server_name(given)
    assert all(letter.isascii() and (letter.isalnum() or letter in "_.:-") for letter in name)
    assert read_server(name, server_address(given)) == given


def test_an_ipv6_address_is_bracketed() -> None:
    assert server_address(endpoint("a", ip="fd00::1")) == "[fd00::1]:30000"


def known(*replicas: str, since: datetime | None = None) -> tuple[Known, ...]:
    return tuple(Known(endpoint=endpoint(replica), missing_since=since) for replica in replicas)


def test_a_missing_endpoint_stays_for_a_while() -> None:
    first = merge(known("a", "b"), [endpoint("a")], complete=True, now=NOW, unseen=UNSEEN)
    assert first == (*known("a"), *known("b", since=NOW))
    almost = NOW + UNSEEN - timedelta(seconds=1)
    assert merge(first, [endpoint("a")], complete=True, now=almost, unseen=UNSEEN) == first
    assert merge(first, [endpoint("a")], complete=True, now=NOW + UNSEEN, unseen=UNSEEN) == known("a")


def test_an_endpoint_that_comes_back_is_as_new() -> None:
    assert merge(known("a", since=NOW), [endpoint("a")], complete=False, now=NOW, unseen=UNSEEN) == known("a")


def test_an_incomplete_observation_neither_ends_nor_begins_a_wait() -> None:
    late = NOW + 10 * UNSEEN
    assert merge(known("a"), [], complete=False, now=late, unseen=UNSEEN) == known("a")
    missing = known("a", since=NOW)
    assert merge(missing, [], complete=False, now=late, unseen=UNSEEN) == missing


def test_what_has_no_server_and_what_vanished_is_probed() -> None:
    present = {server_name(endpoint(replica)): stat("UP") for replica in ("b", "c")}
    entries = (*known("a", "b"), *known("c", since=NOW))
    assert [found.replica for found in to_probe(entries, present)] == ["a", "c"]


def test_a_server_is_added_with_its_checks_on() -> None:
    assert add_commands("lane3", endpoint("a"), "check") == (
        "add server lane3/a_30000 10.0.0.1:30000 check",
        "enable health lane3/a_30000",
        "enable server lane3/a_30000",
    )


@pytest.mark.parametrize(
    ("status", "in_flight", "is_overdue", "expected"),
    [
        ("UP", 0, False, ("set server lane0/one_1 state maint", "del server lane0/one_1")),
        ("UP", 2, False, ("set server lane0/one_1 state drain",)),
        ("DRAIN", 2, False, ()),
        ("DRAIN", 0, False, ("set server lane0/one_1 state maint", "del server lane0/one_1")),
        ("DRAIN", 2, True, ("set server lane0/one_1 state maint", "del server lane0/one_1")),
        ("MAINT", 0, False, ("del server lane0/one_1",)),
        ("MAINT", 2, False, ("del server lane0/one_1",)),
        ("MAINT", 2, True, ("shutdown sessions server lane0/one_1", "del server lane0/one_1")),
    ],
)
def test_a_server_leaves_by_drain_maintenance_and_deletion(
    status: str, in_flight: int, is_overdue: bool, expected: tuple[str, ...]
) -> None:
    assert removal_commands("lane0", stat(status, in_flight), is_overdue=is_overdue) == expected
