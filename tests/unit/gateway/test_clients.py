"""What is known of the traffic by groups of clients, apart from HAProxy."""

from __future__ import annotations

from reconciler.gateway.clients import ClientLedger, parse_clients
from specs.evidence import CLIENT_GROUPS, COARSE, Evidence, bucket_of

TABLE = """# table: clients, type: string, size:1024, used:3
0x6e863f0: key=lane0:0 use=0 exp=0 shard=0 gpc0=3 gpc1=1
0x7f7c24: key=lane0:63 use=1 exp=0 shard=0 gpc0=1 gpc1=0
0x7f7c25: key=lane12:5 use=0 exp=0 shard=0 gpc0=12 gpc1=12

"""


def counts(ledger: ClientLedger, cell: str = "a") -> dict[int, tuple[int, int]]:
    return {
        number: (group.requests, group.errors) for number, group in enumerate(ledger.of(cell)) if group != Evidence()
    }


def test_haproxy_s_table_is_read_by_lane_and_group() -> None:
    assert parse_clients(TABLE) == {"lane0": {0: (3, 1), 63: (1, 0)}, "lane12": {5: (12, 12)}}
    assert parse_clients("# table: clients, type: string, size:1024, used:0\n") == {}


def test_readings_of_one_process_are_not_counted_twice_and_those_of_the_next_come_on_top() -> None:
    ledger = ClientLedger()
    ledger.credit("a", 1, "lane0", {3: (5, 1)})
    ledger.credit("a", 1, "lane0", {3: (5, 1)})
    ledger.credit("a", 1, "lane0", {3: (7, 2), 4: (1, 0)})
    ledger.credit("a", 2, "lane0", {3: (1, 1)})
    assert counts(ledger) == {3: (8, 3), 4: (1, 0)}


def test_a_lane_that_changes_hands_keeps_what_it_counted_for_the_former_cell() -> None:
    ledger = ClientLedger()
    ledger.credit("a", 1, "lane0", {3: (5, 1)})
    ledger.credit("b", 1, "lane0", {3: (6, 1)})
    assert counts(ledger, "a") == {3: (5, 1)}
    assert counts(ledger, "b") == {3: (1, 0)}


def test_a_new_daemon_goes_on_where_the_former_one_left_off() -> None:
    former = ClientLedger()
    former.credit("a", 1, "lane0", {3: (5, 1)})
    former.time("a", 3, 0.1)
    ledger = ClientLedger(former.state())
    ledger.credit("a", 1, "lane0", {3: (6, 1)})
    assert counts(ledger) == {3: (6, 1)}
    assert ledger.of("a")[3].latency.total == 1


def test_latencies_of_groups_are_coarse_and_never_rounded_down() -> None:
    ledger = ClientLedger()
    for seconds in (0.1, 0.101, 0.5):
        ledger.time("a", 3, seconds)
    buckets = dict(ledger.of("a")[3].latency.buckets)
    assert sum(buckets.values()) == 3
    assert all(bucket % COARSE == 0 for bucket in buckets)
    assert bucket_of(0.1) <= min(buckets) < bucket_of(0.1) + COARSE


def test_a_cell_without_traffic_has_all_its_groups() -> None:
    assert ClientLedger().of("a") == (Evidence(),) * CLIENT_GROUPS


def test_cells_and_processes_that_are_gone_are_forgotten() -> None:
    ledger = ClientLedger()
    ledger.credit("a", 1, "lane0", {3: (5, 1)})
    ledger.time("a", 3, 0.1)
    ledger.credit("b", 2, "lane1", {3: (5, 1)})
    ledger.keep(["b"], [2])
    assert counts(ledger, "a") == {}
    assert list(ledger.state().read) == ["2:lane1"]
    assert list(ledger.state().latency) == []
