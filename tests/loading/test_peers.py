"""Nodes that share weights: real servers, real sockets, one tracker in this process. With Ray: tests/e2e."""

from __future__ import annotations

import concurrent.futures
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from loaders.safetensors import chunk_server, peers
from loaders.safetensors import tracker as tracker_module
from loaders.safetensors.cache import Gone
from loaders.safetensors.cache_content import SMALLEST_CHUNK_SIZE, Content
from loaders.safetensors.cache_entry import Entry, NoRoom
from loaders.safetensors.cache_store import Store
from loaders.safetensors.errors import LoadCancelled, SourceFailed, SourceUnreachable
from loaders.safetensors.fill import Fill
from loaders.safetensors.peers import FileLock, Node
from loaders.safetensors.races import MOST_LATE
from loaders.safetensors.sources.http import FIRST_READ, HttpFile
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.swarm import SILENT
from loaders.safetensors.tracker import Held, Tracker, TrackerLost
from tests.loading.servers import RangeServer, free_port
from tests.loading.shape import Shape
from tests.loading.swarming import HoldUp, Locked, Machine

CHUNK = SMALLEST_CHUNK_SIZE
SIZE = 15 * CHUNK + 777
BYTES = random.Random(5).randbytes(SIZE)
ORIGIN = Shape(first_byte=0.01, total_bandwidth=SIZE / 0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origin")
    (folder / "w").write_bytes(BYTES)
    return folder


@pytest.fixture(autouse=True)
def shaped(server: RangeServer) -> None:
    server.shape(ORIGIN)


def timed(machine: Machine, url: str) -> float:
    begun = time.monotonic()
    assert machine.load(url) == BYTES
    return time.monotonic() - begun


def at_once(machines: list[Machine], url: str) -> list[float]:
    with concurrent.futures.ThreadPoolExecutor(len(machines)) as pool:
        return list(pool.map(lambda machine: timed(machine, url), machines))


def test_three_nodes_cost_the_origin_one(machines: list[Machine], server: RangeServer) -> None:
    server.forget()
    at_once(machines, server.url("w"))
    assert server.counters().body <= 1.15 * SIZE
    assert sum(machine.sent for machine in machines) >= 1.9 * SIZE


def test_a_late_node_needs_no_origin(machines: list[Machine], server: RangeServer, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "w").write_bytes(BYTES)
    with RangeServer(tmp_path / "served") as origin:
        url = origin.url("w")
        assert machines[0].load(url) == BYTES
        origin.stop()
        content = machines[1].node.find(url)
        assert content is not None
        gone = Gone(url, content, SourceUnreachable("no connection", uri=url))
        assert machines[1].read(content, gone) == BYTES
    assert machines[2].node.find(url + "2") is None


def test_a_peer_that_dies_is_done_without(machines: list[Machine], server: RangeServer) -> None:
    assert machines[0].load(server.url("w")) == BYTES
    server.shape(Shape())
    dying = machines[0].node.server
    assert dying is not None
    threading.Timer(0.02, dying.stop).start()
    at_once(machines[1:], server.url("w"))


def test_wrong_bytes_of_a_peer_are_not_taken(machines: list[Machine], server: RangeServer) -> None:
    assert machines[0].load(server.url("w")) == BYTES
    [kept] = machines[0].store.kept()
    with (machines[0].store.folder / kept.content.key / "data").open("r+b") as data:
        data.seek(3 * CHUNK + 5)
        data.write(b"wrong")
    server.forget()
    assert machines[1].load(server.url("w")) == BYTES
    assert CHUNK <= server.counters().body <= 2.2 * CHUNK, "only that chunk comes from the origin again"


def test_a_tracker_without_checksums_lets_no_wrong_bytes_through(
    machines: list[Machine], server: RangeServer, tracker: Locked
) -> None:
    assert machines[0].load(server.url("w")) == BYTES
    [kept] = machines[0].store.kept()
    with (machines[0].store.folder / kept.content.key / "data").open("r+b") as data:
        data.seek(3 * CHUNK + 5)
        data.write(b"wrong")
    tracker.tracker = Tracker()
    for machine in machines:
        machine.node._beat()
    assert machines[1].load(server.url("w")) == BYTES
    assert machines[1].store.kept()[0].present == SIZE


def test_contents_that_nobody_has_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(tracker_module.time, "monotonic", lambda: now[0])
    tracker = Tracker()
    one, two = (Content(uri=f"https://models.example.com/{name}", etag="1", size=9) for name in "ab")
    tracker.announce("n", "h:1", [Held(content=one, have=1)])
    now[0] = 2 * SILENT
    tracker.announce("m", "h:2", [Held(content=two, have=1)])
    assert tracker.find(one) is None
    assert list(tracker._swarms) == list(tracker._contents) == [two.key]


def test_who_cannot_serve_leaves_it_to_another(tmp_path: Path, tracker: Locked) -> None:
    with socket.create_server(("127.0.0.10", 0)) as taken:
        with pytest.raises(OSError, match="in use"):
            Node(Store(tmp_path, SIZE), tracker, "a", "127.0.0.10", taken.getsockname()[1])
        lock = FileLock(tmp_path / "serving")
        assert lock.attempt()
        lock.release()


def test_only_who_has_the_token_gets_bytes(machines: list[Machine], server: RangeServer, tracker: Locked) -> None:
    assert machines[0].load(server.url("w")) == BYTES
    [kept] = machines[0].store.kept()
    assert machines[0].node.server is not None
    url, span = f"http://{machines[0].node.server.endpoint}/{kept.content.key}", {"Range": "bytes=0-9"}
    token = {"Authorization": f"Bearer {tracker.token()}"}

    def status(url: str, headers: dict[str, str]) -> int:
        return httpx.get(url, headers=headers, trust_env=False).status_code

    assert status(url, span) == 401
    assert status(url, span | {"Authorization": "Bearer no"}) == 401
    assert status(url, span | token) == 206
    assert status(url, {"Range": f"bytes=0-{SIZE}"} | token) == 416
    assert status(url, token) == 416
    assert status(url + "0", span | token) == 404
    assert status(url.replace(kept.content.key, "%2e%2e/" + kept.content.key), span | token) == 404


def test_a_peer_that_takes_nothing_holds_no_thread(
    machines: list[Machine], server: RangeServer, tracker: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_server, "SILENCE", 1.0)
    server.shape(Shape())
    assert machines[0].load(server.url("w")) == BYTES
    [kept] = machines[0].store.kept()
    assert machines[0].node.server is not None
    address = machines[0].node.server.server_address
    headers = f"Authorization: Bearer {tracker.token()}\r\nRange: bytes=0-{SIZE - 1}\r\n\r\n"
    with socket.socket() as hanging:
        hanging.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        hanging.connect(address)
        hanging.sendall(f"GET /{kept.content.key} HTTP/1.1\r\n{headers}".encode())
        waited_for(lambda: machines[0].sent > 0)
        waited_for(lambda: not any("process_request" in thread.name for thread in threading.enumerate()))
        assert machines[0].sent < SIZE


def test_what_a_cancelled_load_was_fetching_is_another_nodes_at_once(
    machines: list[Machine], server: RangeServer
) -> None:
    server.shape(Shape(first_byte=1.0))
    source, interrupt = machines[0].open(server.url("w")), Interrupt()
    threading.Timer(0.5, interrupt.fire, [LoadCancelled("enough")]).start()
    source.expect([(0, SIZE)])
    with pytest.raises(LoadCancelled):
        source.read_into(0, memoryview(bytearray(SIZE)), interrupt)
    source.close()
    server.shape(Shape())
    assert timed(machines[1], server.url("w")) < 5


LATE = ["silent", "silent in the middle", "slow"]
"""The slow one needs 8 seconds for each chunk, 32 for all of them, four at a time."""


@pytest.mark.parametrize("how", LATE)
def test_what_a_peer_does_not_bring_in_time_comes_from_the_origin_too(
    machines: list[Machine], server: RangeServer, held_up: HoldUp, how: str
) -> None:
    server.shape(Shape())
    assert machines[0].load(server.url("w")) == BYTES
    held_up(machines[0], how)
    server.forget()
    assert timed(machines[1], server.url("w")) < 8, "silence alone is seen after ten seconds"
    assert server.counters().body <= SIZE + (MOST_LATE + 1) * CHUNK


@pytest.mark.parametrize("how", LATE)
def test_another_peer_is_asked_before_the_origin(
    machines: list[Machine], server: RangeServer, held_up: HoldUp, how: str
) -> None:
    server.shape(Shape())
    for machine in machines[:2]:
        assert machine.load(server.url("w")) == BYTES
    held_up(machines[0], how)
    server.forget()
    assert timed(machines[2], server.url("w")) < 8
    assert server.counters().body <= MOST_LATE * CHUNK + FIRST_READ + 1


@pytest.mark.parametrize("how", LATE)
def test_a_late_peer_is_done_without_where_the_origin_is_gone(
    machines: list[Machine], server: RangeServer, held_up: HoldUp, how: str
) -> None:
    """Asking the origin in its place fails at once; that must not end the load while others have everything."""
    server.shape(Shape())
    for machine in machines[:2]:
        assert machine.load(server.url("w")) == BYTES
    content = machines[2].node.find(server.url("w"))
    assert content is not None
    held_up(machines[0], how)
    began = time.monotonic()
    gone = Gone(content.uri, content, SourceUnreachable("no connection", uri=content.uri))
    assert machines[2].read(content, gone) == BYTES
    assert time.monotonic() - began < 9


def test_what_was_received_in_vain_is_counted_and_little(
    machines: list[Machine], server: RangeServer, held_up: HoldUp
) -> None:
    server.shape(Shape())
    assert machines[0].load(server.url("w")) == BYTES
    held_up(machines[0], "slow")
    machine = machines[1]
    origin = HttpFile(server.url("w"), Interrupt())
    entry = machine.store.open(Content(uri=origin.uri, etag=origin.version, size=origin.size), SIZE)
    assert entry is not None
    with entry:
        fill = Fill(entry, origin, machine.node.membership())
        fill.run(Interrupt())
        assert entry.complete()
    origin.close()
    assert fill.from_origin + fill.from_peers == SIZE
    assert 0 < fill.in_vain <= MOST_LATE * CHUNK


def waited_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("when", ["before", "during"])
def test_without_a_tracker_the_origin_is_enough(
    machines: list[Machine], server: RangeServer, tracker: Locked, when: str
) -> None:
    timer = threading.Timer(0.0 if when == "before" else 0.2, lambda: setattr(tracker, "lost", True))
    timer.start()
    if when == "before":
        timer.join()
    assert machines[0].load(server.url("w")) == BYTES
    timer.join()


def test_an_origin_that_refuses_is_reported_as_such(
    machines: list[Machine], server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.safetensors.sources.http.MOST_TRIES", 2)
    origin = HttpFile(server.url("w"), Interrupt())
    server.shape(Shape(refuse_every=1))
    began = time.monotonic()
    with pytest.raises(SourceFailed, match="503"):
        machines[0].read(Content(uri=origin.uri, etag=origin.version, size=origin.size), origin)
    assert time.monotonic() - began < 30, "and not only once nothing has landed for a minute"


def test_another_process_takes_over_the_serving(
    tmp_path: Path, tracker: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "HEARTBEAT", 0.05)
    store = Store(tmp_path, SIZE)
    first = Node(store, tracker, "a", "127.0.0.10")
    second = Node(store, tracker, "a", "127.0.0.10")
    assert first.server is not None
    assert second.server is None
    first.close()
    deadline = time.monotonic() + 10
    while second.server is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert second.membership().endpoint == second.server.endpoint
    second.close()


@pytest.mark.parametrize("held_for", [0.5, 60.0], ids=["for a moment", "for ever"])
def test_a_chunk_that_a_process_without_peers_is_fetching_is_waited_for_though_not_for_ever(
    machines: list[Machine], server: RangeServer, monkeypatch: pytest.MonkeyPatch, held_for: float
) -> None:
    monkeypatch.setattr("loaders.safetensors.fill.CLAIMED_FOR", 1.5)
    server.shape(Shape())
    machine, origin = machines[0], HttpFile(server.url("w"), Interrupt())
    content = Content(uri=origin.uri, etag=origin.version, size=origin.size)
    entry, other = machine.store.open(content, SIZE), machine.store.open(content, SIZE)
    assert entry is not None
    assert other is not None
    with entry, other:
        length = content.length_of(0)

        def bring() -> None:
            with other.claim(0) as claimed:
                assert claimed
                let_go.wait(held_for)
                if held_for < 1:
                    other.write(0, memoryview(BYTES)[:length])

        let_go = threading.Event()
        bringing = threading.Thread(target=bring)
        bringing.start()
        fill = Fill(entry, origin, machine.node.membership())
        fill.run(Interrupt())
        let_go.set()
        bringing.join()
        assert entry.complete()
    origin.close()
    assert fill.from_origin == (content.size - length if held_for < 1 else content.size)


def test_of_two_processes_that_begin_together_one_waits_until_it_is_written_where_the_other_serves(
    tmp_path: Path, tracker: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without peers it would read from the origin what the other one fetches for the whole node."""
    store = Store(tmp_path, SIZE)
    serving = FileLock(store.folder / "serving")
    assert serving.attempt()
    second = Node(store, tracker, "a", "127.0.0.10")
    late = threading.Timer(0.3, (store.folder / "endpoint").write_text, ["127.0.0.10:1"])
    late.start()
    assert second.membership().endpoint == "127.0.0.10:1"
    late.join()
    (store.folder / "endpoint").unlink()
    monkeypatch.setattr(peers, "WRITTEN_WITHIN", 0.05)
    with pytest.raises(FileNotFoundError):
        second.membership()
    second.close()
    serving.release()


def test_a_cache_that_was_emptied_is_filled_again(machines: list[Machine], server: RangeServer) -> None:
    server.shape(Shape())
    assert machines[0].load(server.url("w")) == BYTES
    [kept] = machines[0].store.kept()
    assert machines[0].store.remove(kept.content.key)
    assert timed(machines[0], server.url("w")) < 20


def test_a_tracker_that_hangs_does_not_keep_a_load_from_ending(
    machines: list[Machine], server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "ENDS_WITHIN", 0.2)
    hung, let_go = threading.Event(), threading.Event()

    def hang(*_: Any) -> Any:
        hung.set()
        let_go.wait(20)
        raise TrackerLost("gone")

    machine = machines[0]
    origin = HttpFile(server.url("w"), Interrupt())
    entry = machine.store.open(Content(uri=origin.uri, etag=origin.version, size=origin.size), SIZE)
    assert entry is not None
    monkeypatch.setattr(machine.node.tracker.tracker, "turn", hang)
    filling = machine.node.filling(entry, origin)
    assert hung.wait(10)
    began = time.monotonic()
    filling.close()
    assert time.monotonic() - began < 5
    let_go.set()
    filling._thread.join(10)
    assert not filling._lock.held, "another process may take over now"
    entry.close()
    origin.close()


def test_without_ray_there_are_no_peers(tmp_path: Path) -> None:
    assert peers.this_node(Store(tmp_path, SIZE)) is None


def test_a_node_whose_disk_is_full_gets_its_bytes_all_the_same(
    machines: list[Machine], server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url("w")
    machines[0].load(url)
    write, tried = Entry.write, []

    def full(entry: Entry, chunk: int, *arguments: Any) -> int:
        if not entry.folder.is_relative_to(machines[1].store.folder):
            return write(entry, chunk, *arguments)
        tried.append(chunk)
        raise NoRoom("no room left for the weight cache in /there: No space left on device")

    monkeypatch.setattr(Entry, "write", full)
    assert machines[1].load(url) == BYTES
    assert tried
    [kept] = machines[1].store.kept()
    assert kept.present == 0


@dataclass(kw_only=True)
class Cluster:
    """What a process asks Ray before it joins: which nodes there are, and which one is its own."""

    alive: int

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, object]]:
        return [{"NodeID": f"n{each}", "NodeManagerAddress": "127.0.0.1", "Alive": True} for each in range(self.alive)]

    def get_runtime_context(self) -> Cluster:
        return self

    def get_node_id(self) -> str:
        return "n0"


@pytest.mark.parametrize(
    ("alive", "variables", "joins"),
    [
        (2, {}, True),
        (1, {}, False),
        (2, {"HELIOSTAT_PEERS": "off"}, False),
        (2, {"HELIOSTAT_PEER_PORT": "none"}, False),
        (2, {"HELIOSTAT_PEER_PORT": "a free one"}, True),
    ],
)
def test_who_joins_is_said_by_the_cluster_and_the_environment(
    tmp_path: Path,
    tracker: Locked,
    monkeypatch: pytest.MonkeyPatch,
    *,
    alive: int,
    variables: dict[str, str],
    joins: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", Cluster(alive=alive))
    monkeypatch.setattr(peers, "RayTracker", lambda _: tracker)
    monkeypatch.setattr(peers, "_nodes", {})
    port = str(free_port())
    for name, value in variables.items():
        monkeypatch.setenv(name, port if value == "a free one" else value)
    store = Store(tmp_path, SIZE)
    joined = peers.this_node(store)
    assert (joined is not None) == joins
    if joined is not None:
        assert peers.this_node(store) is joined, "once per process and folder"
        endpoint = (tmp_path / "endpoint").read_text()
        joined.close()
        assert endpoint.endswith(f":{port}") == bool(variables)
