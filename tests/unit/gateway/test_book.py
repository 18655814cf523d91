"""What the gateway knows, apart from HAProxy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from reconciler.gateway.admin import Counts, LaneStat, ServerStat
from reconciler.gateway.book import Book
from reconciler.gateway.folder import Folder
from reconciler.gateway.signals import Answer
from reconciler.gateway.state import Running, Saved, load, save
from specs.evidence import Evidence, LatencyCounts
from specs.observed import Endpoint
from specs.routes import CellWeight, RouteTable, ServiceRoute

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UNSEEN = timedelta(minutes=2)
ONE = Endpoint(ip="10.0.0.1", port=1, replica="one")


def table(*cells: tuple[str, int]) -> RouteTable:
    weights = tuple(CellWeight(cell=cell, weight=weight) for cell, weight in cells)
    return RouteTable(services=(ServiceRoute(service="chat", route="/chat", cells=weights, max_request_seconds=60),))


def test_a_cell_that_comes_back_while_its_old_lane_cools_keeps_its_endpoints() -> None:
    book = Book(4, Saved())
    book.lease(table(("a", 10000)), NOW)
    book.tell({"a": (ONE,)}, complete=True, now=NOW, unseen=UNSEEN)
    book.lease(RouteTable(), NOW)
    book.release(NOW)
    book.pool.cool("lane0", NOW)
    book.lease(table(("a", 10000)), NOW)
    (cooling,) = [lease for lease in book.pool.leases if lease.lane == "lane0"]
    book.free(cooling)
    assert [known.endpoint for known in book.known["a"]] == [ONE]
    assert [(lease.lane, lease.cell) for lease in book.pool.leases] == [("lane1", "a")]


def test_what_is_compared_leaves_out_what_has_not_ended() -> None:
    book = Book(4, Saved())
    book.lease(table(("a", 10000)), NOW)
    counts = Counts(requests=10, aborted=1, codes=(0, 5, 0, 0, 2))
    book.stats = {"lane0": LaneStat(in_flight=3, counts=counts, servers=())}
    book.ledger.credit("a", 1, "lane0", counts)
    book.add_latency(Answer(lane="lane0", status=200, seconds=0.1, weight=16), NOW)
    (seen,) = book.seen((), NOW, is_direct=True).traffic
    assert seen.requests == 10
    assert seen.evidence == Evidence(requests=7, errors=2, aborted=1, latency=LatencyCounts.from_seconds([0.1]))


def test_a_new_daemon_goes_on_from_the_evidence_of_the_former_one(tmp_path: Path) -> None:
    book = Book(4, Saved())
    book.lease(table(("a", 10000)), NOW)
    book.ledger.credit("a", 1, "lane0", Counts(requests=10, codes=(0, 10, 0, 0, 0)))
    book.add_latency(Answer(lane="lane0", status=200, seconds=0.1, weight=1), NOW)
    folder = Folder(tmp_path / "gateway")
    save(folder, book.saved(None))
    (before,) = book.seen((), NOW, is_direct=True).traffic
    (after,) = Book(4, load(folder)).seen((), NOW, is_direct=True).traffic
    folder.close()
    assert after.evidence == before.evidence
    assert after.evidence.requests == 10
    assert after.evidence.latency.total == 1


def test_a_freed_lane_s_cell_is_forgotten() -> None:
    book = Book(4, Saved())
    book.lease(table(("a", 10000)), NOW)
    book.tell({"a": (ONE,)}, complete=True, now=NOW, unseen=UNSEEN)
    book.add_latency(Answer(lane="lane0", status=200, seconds=0.1, weight=1), NOW)
    book.lease(RouteTable(), NOW)
    book.release(NOW)
    book.pool.cool("lane0", NOW)
    book.free(book.pool.leases[0])
    assert book.known == {}
    assert book.histograms() == ()


def test_who_has_lost_a_drained_lane_is_remembered_until_it_has_one_again() -> None:
    book = Book(4, Saved())

    def drained() -> frozenset[str]:
        return book.seen((), NOW, is_direct=True).drained

    book.lease(table(("a", 10000)), NOW)
    book.lease(RouteTable(), NOW)
    book.release(NOW)
    assert drained() == frozenset()
    book.pool.cool("lane0", NOW)
    assert drained() == {"a"}
    book.free(book.pool.leases[0])
    assert drained() == {"a"}
    book.lease(table(("a", 10000)), NOW)
    assert drained() == frozenset()


def test_a_new_haproxy_starts_with_the_servers_that_were_up_and_every_row() -> None:
    book = Book(4, Saved())
    book.lease(table(("a", 9000), ("b", 1000)), NOW)
    up = ServerStat(name="one_1", address="10.0.0.1:1", status="UP", is_up=True, in_flight=0)
    down = ServerStat(name="two_2", address="10.0.0.1:2", status="DOWN", is_up=False, in_flight=0)
    book.stats = {"lane0": LaneStat(in_flight=0, counts=Counts(), servers=(up, down))}
    content = book.content()
    assert content.servers == {"lane0": ("one_1 10.0.0.1:1",)}
    assert content.prefixes == {"lane0": "/_/a", "lane1": "/_/b"}
    assert [str(row) for row in content.rows] == ["1|chat|/chat|-|9000|lane0|10000|lane1"]
    assert content.patience == timedelta(seconds=60)


def test_the_gateway_s_own_503s_are_told_for_the_cell_with_the_most_weight() -> None:
    book = Book(4, Saved())
    book.lease(table(("a", 1000), ("b", 9000)), NOW)
    book.credit_unrouted(1, {"chat": 5, "gone": 7})
    assert book.ledger.unrouted == {"b": 5}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    book = Book(4, Saved())
    book.lease(table(("a", 10000)), NOW)
    book.tell({"a": (ONE,)}, complete=True, now=NOW, unseen=UNSEEN)
    book.tell({}, complete=True, now=NOW, unseen=UNSEEN)
    book.ledger.credit("a", 1, "lane0", Counts(requests=7, broken=1, codes=(0, 6, 0, 0, 0)))
    running = Running(pid=7, started=8, generation=9, version="x", lanes=4)
    folder = Folder(tmp_path / "gateway")
    save(folder, book.saved(running))
    assert load(folder) == book.saved(running)
    folder.close()


def test_a_state_that_cannot_be_read_is_no_state(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "gateway")
    assert load(folder) == Saved()
    folder.write("gateway.json", '{"running": 5')
    assert load(folder) == Saved()
    folder.close()


def test_code_classes_add_up_to_the_requests_that_ended() -> None:
    book = Book(4, Saved())
    book.lease(table(("a", 10000)), NOW)
    counts = Counts(requests=10, aborted=2, broken=1, codes=(0, 4, 0, 1, 1))
    book.stats = {"lane0": LaneStat(in_flight=1, counts=counts, servers=())}
    book.ledger.credit("a", 1, "lane0", counts)
    book.credit_unrouted(1, {"chat": 2})
    expected = {"1xx": 0, "2xx": 4, "3xx": 0, "4xx": 1, "5xx": 1, "none": 3, "unrouted": 2}
    assert book.codes() == {"a": expected}
