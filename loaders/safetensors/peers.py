"""A node among its peers: who serves its chunks, and who fills its cache.

One process of the node serves what the cache holds, whichever has the lock file; when it ends, another one that has the
cache open takes over. Each content is filled by one process at a time in the same way. The tracker is a named, detached
Ray actor. Without Ray, on a single node, or when the tracker does not answer, loads go by cache and origin alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loaders.safetensors.cache_content import Content
from loaders.safetensors.cache_entry import Entry, unlock_and_close
from loaders.safetensors.cache_store import Store, write_whole
from loaders.safetensors.chunk_server import ChunkServer
from loaders.safetensors.errors import LoadError
from loaders.safetensors.fill import Fill, Membership
from loaders.safetensors.neighbours import Neighbours
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.tracker import NAME, NAMESPACE, Held, Report, Tracker, TrackerLost, Tracking, Turn

LOG = logging.getLogger(__name__)

HEARTBEAT = 3.0
"""Seconds between two words to the tracker, and between two tries to become the one who serves."""

ENDS_WITHIN = 5.0
"""How long a load that is over waits for its part in a fill: what was asked is broken off, but for the tracker."""

STALLED = 60.0
"""Seconds without a new chunk after which readers stop waiting for a fill and ask the origin themselves."""

TRACKER_ANSWERS_WITHIN = 10.0
WRITTEN_WITHIN = 5.0
"""Seconds in which a process that has begun to serve has written where."""

PEERS_VARIABLE, PORT_VARIABLE = "HELIOSTAT_PEERS", "HELIOSTAT_PEER_PORT"


class FileLock:
    """A lock file that one process of the node holds, as long as it lives."""

    def __init__(self, path: Path) -> None:
        """Not held."""
        self._path = path
        self._descriptor: int | None = None
        self._process = os.getpid()

    @property
    def held(self) -> bool:
        """Tell whether it is held by this object."""
        return self._descriptor is not None

    def attempt(self) -> bool:
        """Try to get it."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor, self._process = descriptor, os.getpid()
        return True

    def release(self) -> None:
        """Give it back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            unlock_and_close(descriptor, self._process)


class Node:
    """A process's part in the swarm."""

    def __init__(self, store: Store, tracker: Tracking, name: str, host: str, port: int = 0) -> None:
        """Serve at once if no other process of the node does; raise `TrackerLost` if nobody keeps track."""
        self.store, self.tracker, self.name = store, tracker, name
        self._host, self._port = host, port
        self._serving = FileLock(store.folder / "serving")
        self._over = threading.Event()
        self.server: ChunkServer | None = None
        try:
            self._beat()
        except BaseException:
            self._stop_serving()
            raise
        self._thread = threading.Thread(target=self._go_on, name="weights-peer", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        token = self.tracker.token()
        if self.server is None and self._serving.attempt():
            try:
                self.server = ChunkServer(self.store, self._host, self._port, token)
                write_whole(self.store.folder / "endpoint", self.server.endpoint)
            except BaseException:  # another process of the node may do better
                self._stop_serving()
                raise
        if self.server is not None:
            self.server.token = token
            self.tracker.announce(self.name, self.server.endpoint, held(self.store))

    def _go_on(self) -> None:
        while not self._over.wait(HEARTBEAT):
            try:
                self._beat()
            except (TrackerLost, OSError) as error:
                LOG.warning("peers: %s", error)

    def membership(self, want: int | None = None) -> Membership:
        """Return what a fill needs; whoever serves has written where. A part is wanted by a member of its own."""
        name = self.name if want is None else f"{self.name}/{os.getpid()}-{next(_numbers)}"
        return Membership(
            node=name, endpoint=self._endpoint(), token=self.tracker.token(), tracker=self.tracker, want=want
        )

    def _endpoint(self) -> str:
        """Return where this node serves. Of two processes that begin together, one is yet to write where it does."""
        until = time.monotonic() + WRITTEN_WITHIN
        while True:
            try:
                return (self.store.folder / "endpoint").read_text()
            except FileNotFoundError:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.01)

    def find(self, uri: str) -> Content | None:
        """Return a content of this URI that peers have in full."""
        try:
            return self.tracker.find(Content(uri=uri, etag="", size=0))
        except TrackerLost:
            return None

    def filling(self, entry: Entry, origin: Source, want: int | None = None) -> Filling:
        """Have this content filled, by this process or another one of the node; or these chunks of it, by this one."""
        return Filling(self, entry, origin, want)

    def neighbours(self, content: Content) -> Neighbours:
        """Return who can be asked for ranges of a content."""
        return Neighbours(content, self.membership)

    def close(self) -> None:
        """Stop serving; another process may take over."""
        self._over.set()
        self._thread.join()
        self._stop_serving()

    def _stop_serving(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.stop()
        self._serving.release()


class Filling:
    """A reader's view of a fill: whether waiting for chunks is worth it. `goes_on` is called from many threads.

    A whole content is filled by one process of the node at a time. A part is filled by whoever wants it: the tracker
    sees to it that processes of one node do not fetch the same chunks.
    """

    def __init__(self, node: Node, entry: Entry, origin: Source, want: int | None) -> None:
        """Start to fill if no other process does."""
        self._node, self._entry, self._origin, self._want = node, entry, origin, want
        self._lock = FileLock(entry.folder / "fill")
        self._guard = threading.Lock()
        self._interrupt = Interrupt()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._seen = (-1, time.monotonic())
        self.fill: Fill | None = None
        self.goes_on()

    def goes_on(self) -> bool:
        """Tell whether missing chunks will come without the reader's doing; take over from a filler that died."""
        if self._ended or self._interrupt.fired:
            return False
        with self._guard:
            try:
                if self._thread is None and (self._want is not None or self._lock.attempt()):
                    self._start()
            except OSError as error:
                LOG.warning("%s is loaded without peers: %s", self._entry.content.public_uri, error)
                self._ended = True
            if not self._ended and not self._moves():
                # Who has waited for one that does nothing does not do so again for each chunk.
                self._ended = True
                LOG.warning("%s: who fetches it for this node does not get on", self._entry.content.public_uri)
            return not self._ended

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="weights-filler", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.fill = Fill(self._entry, self._origin, self._node.membership(self._want))
            with contextlib.nullcontext() if self._want is not None else self._entry.filling():
                self.fill.run(self._interrupt)
        except Exception as error:
            if not self._interrupt.fired:
                LOG.warning("%s: peers are of no help: %s", self._entry.content.public_uri, error)
        finally:
            self._ended = True
            self._lock.release()
            if self.fill is not None and self.fill.in_vain:
                uri = self._entry.content.public_uri
                LOG.info("%s: %d bytes were asked for twice, for a peer was late", uri, self.fill.in_vain)

    def _moves(self) -> bool:
        """Tell whether chunks have landed lately."""
        count, since = self._seen
        now = time.monotonic()
        if now - since > 1.0:
            present = len(self._entry.present())
            if present != count:
                self._seen = (present, now)
            elif now - since > STALLED or (self._thread is None and self._entry.filler_is_stopped()):
                return False
        return True

    @property
    def brought(self) -> int:
        """Bytes that this process brought to the node."""
        return self.fill.from_origin + self.fill.from_peers if self.fill is not None else 0

    def close(self) -> None:
        """End this process's part. What has landed stays for whoever goes on."""
        self._interrupt.fire(LoadError("the load is over"))
        if self._thread is not None:
            # The thread may wait for a tracker that hangs. What it touches outlives it, and it lets go of the lock.
            self._thread.join(ENDS_WITHIN)
            if self._thread.is_alive():
                return
        self._lock.release()


def held(store: Store) -> list[Held]:
    """Return what this node has."""
    found = []
    for kept in store.kept():
        entry = store.peek(kept.content.key)
        if entry is not None:
            with entry:
                found.append(Held(content=entry.content, have=sum(1 << chunk for chunk in entry.present())))
    return found


class RayTracker:
    """The tracker actor, as this process calls it."""

    def __init__(self, ray: Any) -> None:  # ray is imported only where it is in use already
        """Find the actor or start it."""
        self._ray = ray
        options = {"num_cpus": 0, "max_restarts": -1, "lifetime": "detached", "get_if_exists": True}
        with self._translated():
            self._actor = ray.remote(Tracker).options(name=NAME, namespace=NAMESPACE, **options).remote()

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except (self._ray.exceptions.RayError, ValueError, TimeoutError) as error:
            raise TrackerLost(f"the tracker does not answer: {error}") from error

    def _call(self, method: str, *arguments: object) -> Any:
        with self._translated():
            answer = getattr(self._actor, method).remote(*arguments)
            return self._ray.get(answer, timeout=TRACKER_ANSWERS_WITHIN)

    def token(self) -> str:
        """Return the secret that peers show each other."""
        return str(self._call("token"))

    def announce(self, node: str, endpoint: str, held: Sequence[Held]) -> None:
        """Say where a node serves chunks, and which."""
        self._call("announce", node, endpoint, held)

    def begin(self, node: str, endpoint: str, held: Held) -> None:
        """Join a content's swarm and start to fetch."""
        self._call("begin", node, endpoint, held)

    def turn(self, node: str, key: str, report: Report, slots: tuple[int, int]) -> Turn:
        """Report, and ask what to fetch next."""
        answer = self._call("turn", node, key, report, slots)
        assert isinstance(answer, Turn)
        return answer

    def find(self, asked: Content) -> Content | None:
        """Return the version of an object that the swarm has in full."""
        answer = self._call("find", asked)
        assert answer is None or isinstance(answer, Content)
        return answer

    def holders(self, node: str, key: str) -> dict[str, int]:
        """Return what other nodes have of a content, by where they serve it."""
        return dict(self._call("holders", node, key))


_numbers = itertools.count()
_nodes: dict[Path, Node] = {}
_nodes_lock = threading.Lock()


def this_node(store: Store) -> Node | None:
    """Join the peers if this process runs in a Ray cluster of several nodes; `None` otherwise."""
    if os.environ.get(PEERS_VARIABLE, "").lower() in ("0", "off", "no", "false"):
        return None
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    with _nodes_lock:
        if store.folder not in _nodes:
            try:
                joined = _join(ray, store)
            except (TrackerLost, OSError, ValueError, OverflowError) as error:  # the last two: a port that is none
                LOG.warning("loading without peers: %s", error)
                return None
            if joined is None:
                return None
            _nodes[store.folder] = joined
        return _nodes[store.folder]


def _join(ray: Any, store: Store) -> Node | None:
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    name = ray.get_runtime_context().get_node_id()
    if len(alive) < 2 or name not in alive:
        return None
    own = Store(store.folder, store.cap)  # it outlives this load, whose interrupt must not end its waiting
    return Node(own, RayTracker(ray), name, alive[name], int(os.environ.get(PORT_VARIABLE, "0")))
