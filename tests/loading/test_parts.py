"""Parts of files through the node's cache and from peers: ranges of what is needed, and nothing else."""

from __future__ import annotations

import concurrent.futures
import logging
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from loaders.safetensors import cache, chunk_server
from loaders.safetensors.cache import Gone
from loaders.safetensors.cache_content import SMALLEST_CHUNK_SIZE, Content
from loaders.safetensors.errors import LoadCancelled, SourceUnreachable
from loaders.safetensors.neighbours import MOST_ASKED
from loaders.safetensors.sources.http import FIRST_READ
from loaders.safetensors.sources.interrupt import Interrupt
from tests.loading.servers import RangeServer
from tests.loading.shape import Shape
from tests.loading.swarming import HoldUp, Locked, Machine

CHUNK = SMALLEST_CHUNK_SIZE
SIZE = 15 * CHUNK + 777
BYTES = random.Random(6).randbytes(SIZE)
OPENING = FIRST_READ + 1
"""The first bytes, and one that tells how far the origin is."""

WHOLE = [(2 * CHUNK, 4 * CHUNK)]
EDGES = [(5 * CHUNK - 1000, 5 * CHUNK + 2000), (9 * CHUNK + 5, 9 * CHUNK + 50_005)]
NEEDED = sum(stop - start for start, stop in WHOLE + EDGES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origin")
    (folder / "w").write_bytes(BYTES)
    return folder


def parts(machine: Machine, url: str, wanted: list[tuple[int, int]]) -> None:
    assert machine.ranges(machine.open(url), wanted) == [BYTES[start:stop] for start, stop in wanted]


def test_a_part_comes_from_a_peer_that_has_it_and_no_more_than_that(
    machines: list[Machine], server: RangeServer
) -> None:
    machines[0].load(server.url("w"))
    server.forget()
    parts(machines[1], server.url("w"), WHOLE + EDGES)
    assert server.counters().body <= OPENING
    assert machines[0].sent <= 1.05 * NEEDED
    assert machines[1].store.kept()[0].present == 2 * CHUNK, "what was wanted whole is kept for the others"


def test_nodes_that_want_the_same_part_cost_the_origin_one(machines: list[Machine], server: RangeServer) -> None:
    wanted = [(CHUNK, 13 * CHUNK)]
    server.shape(Shape(first_byte=0.01, total_bandwidth=SIZE / 0.8))
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda machine: parts(machine, server.url("w"), wanted), machines))
    assert server.counters().body <= 1.15 * 12 * CHUNK + 3 * OPENING
    assert sum(machine.sent for machine in machines) >= 1.7 * 12 * CHUNK
    assert {machine.store.kept()[0].present for machine in machines} == {12 * CHUNK}


def test_ranks_of_a_node_that_want_the_same_fetch_it_once(machines: list[Machine], server: RangeServer) -> None:
    """What is not cut is each rank's; the rest is one rank's alone."""
    server.shape(Shape(first_byte=0.01, total_bandwidth=SIZE / 0.8))
    ranks = [[(CHUNK, 4 * CHUNK), (rank * 2 * CHUNK + 4 * CHUNK, rank * 2 * CHUNK + 6 * CHUNK)] for rank in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda wanted: parts(machines[0], server.url("w"), wanted), ranks))
    assert server.counters().body <= 1.05 * 11 * CHUNK + 4 * OPENING


def test_a_node_that_has_no_room_gets_whole_chunks_from_a_peer_all_the_same(
    machines: list[Machine], server: RangeServer, tracker: Locked, tmp_path: Path
) -> None:
    machines[0].load(server.url("w"))
    full = Machine(tmp_path / "full", tracker, 7, CHUNK)
    source = full.open(server.url("w"))
    server.forget()
    assert full.whole(source) == BYTES
    full.node.close()
    # Of what has landed last at a node, the tracker may hear a moment later.
    assert server.counters().body <= 2 * CHUNK
    assert full.store.kept() == []


@pytest.mark.parametrize("how", ["silent", "silent in the middle", "slow"])
def test_a_late_peer_does_not_hold_up_a_part(
    machines: list[Machine], server: RangeServer, held_up: HoldUp, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    machines[0].load(server.url("w"))
    held_up(machines[0], how)
    caplog.set_level(logging.INFO)
    began = time.monotonic()
    parts(machines[1], server.url("w"), EDGES if how == "silent in the middle" else WHOLE + EDGES)
    assert time.monotonic() - began < 8
    assert ("1024 bytes of parts were asked for twice" in caplog.text) == (how == "silent in the middle")


def test_a_peer_is_asked_for_a_few_ranges_at_a_time(
    machines: list[Machine], server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of an inner dimension are thousands of ranges, wanted by many threads."""
    machines[0].load(server.url("w"))
    [kept] = machines[0].store.kept()
    send, lock, now, most = chunk_server.Handler._send_part, threading.Lock(), [0], [0]

    def slowly(handler: chunk_server.Handler, *arguments: Any) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        send(handler, *arguments)

    monkeypatch.setattr(chunk_server.Handler, "_send_part", slowly)
    near = machines[1].node.neighbours(kept.content)
    rows = [memoryview(bytearray(50)) for _ in range(64)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        came = list(pool.map(lambda row: near.read(5, 100 * row[0], row[1], Interrupt()), enumerate(rows)))
    near.close()
    # On a busy machine some wait for more than the second after which the origin is asked.
    assert sum(came) >= MOST_ASKED
    assert all(rows[row] == BYTES[5 * CHUNK + 100 * row :][:50] for row in range(64) if came[row])
    assert 1 < most[0] <= MOST_ASKED


def test_a_peer_that_drags_does_not_hold_up_a_part(
    machines: list[Machine], server: RangeServer, held_up: HoldUp
) -> None:
    machines[0].load(server.url("w"))
    held_up(machines[0], "slow")
    began = time.monotonic()
    parts(machines[1], server.url("w"), [(5 * CHUNK, 5 * CHUNK + CHUNK // 8 * 7)])
    assert time.monotonic() - began < CHUNK / 50_000 * 0.4 / 2, "the origin is asked before the peer has sent half"


def test_a_part_of_a_chunk_that_is_not_what_the_origin_gave_is_not_sent(
    machines: list[Machine], server: RangeServer
) -> None:
    machines[0].load(server.url("w"))
    [kept] = machines[0].store.kept()
    with (machines[0].store.folder / kept.content.key / "data").open("r+b") as data:
        data.seek(9 * CHUNK + 17)
        data.write(b"wrong")
    parts(machines[1], server.url("w"), EDGES)
    [kept] = machines[0].store.kept()
    assert kept.present == SIZE - CHUNK, "and is fetched again when somebody wants it"


def test_bytes_of_a_part_that_changed_on_the_way_are_not_taken(
    machines: list[Machine], server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines[0].load(server.url("w"))
    monkeypatch.setattr("loaders.safetensors.chunk_server.checksum_text", lambda _: "0" * 16)
    server.forget()
    parts(machines[1], server.url("w"), EDGES)
    assert sum(stop - start for start, stop in EDGES) <= server.counters().body <= OPENING + 53_000


def test_a_part_needs_no_origin_once_peers_have_it(
    machines: list[Machine], server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines[0].load(server.url("w"))
    monkeypatch.setattr(cache, "node_store", lambda _: machines[1].store)
    monkeypatch.setattr(cache, "this_node", lambda _: machines[1].node)

    def unreachable() -> Gone:
        raise SourceUnreachable("no connection", uri=server.url("w"))

    before = machines[0].sent
    source = cache.through_cache(server.url("w"), unreachable, Interrupt())
    assert isinstance(source, cache.ReadThrough)
    assert machines[1].ranges(source, WHOLE + EDGES) == [BYTES[start:stop] for start, stop in WHOLE + EDGES]
    assert machines[0].sent - before <= 1.05 * NEEDED


def test_without_a_tracker_a_part_comes_from_the_origin(
    machines: list[Machine], server: RangeServer, tracker: Locked
) -> None:
    tracker.lost = True
    parts(machines[0], server.url("w"), WHOLE + EDGES)
    assert server.counters().body <= OPENING + 1.05 * NEEDED


def test_a_part_of_what_was_evicted_comes_from_the_origin(machines: list[Machine], server: RangeServer) -> None:
    machines[0].load(server.url("w"))
    content: Content = machines[0].store.kept()[0].content
    assert machines[0].store.remove(content.key)
    parts(machines[1], server.url("w"), WHOLE + EDGES)


@pytest.mark.parametrize("wanted", [[(0, SIZE)], WHOLE, EDGES], ids=["whole", "chunks", "ranges"])
def test_a_load_that_is_cancelled_while_peers_and_origin_are_silent_ends_at_once(
    machines: list[Machine], server: RangeServer, held_up: HoldUp, wanted: list[tuple[int, int]]
) -> None:
    machines[0].load(server.url("w"))
    held_up(machines[0], "silent")
    source = machines[1].open(server.url("w"))
    server.shape(Shape(first_byte=30.0))
    before, interrupt = threads(), Interrupt()
    threading.Timer(0.5, interrupt.fire, [LoadCancelled("enough")]).start()
    began = time.monotonic()
    source.expect(wanted)
    start, stop = wanted[-1]
    with pytest.raises(LoadCancelled):
        source.read_into(start, memoryview(bytearray(stop - start)), interrupt)
    source.close()
    assert time.monotonic() - began < 4
    deadline = time.monotonic() + 10
    while threads() - before:
        assert time.monotonic() < deadline, f"left over: {threads() - before}"
        time.sleep(0.01)


def threads() -> set[str]:
    """Names of the library's own threads, but for the servers'."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("weights-")}
