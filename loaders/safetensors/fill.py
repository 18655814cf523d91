"""Fills one content of this node's cache, from peers and the origin together, as the tracker says."""

from __future__ import annotations

import queue
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from loaders.safetensors.cache_entry import Entry
from loaders.safetensors.chunk_server import CHECKSUM, checksum_text
from loaders.safetensors.errors import LoadError, SourceChanged
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.http import Pool
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.wire import Broken, Place
from loaders.safetensors.swarm import Assignment
from loaders.safetensors.tracker import Held, Report, Tracking, Turn

ORIGIN_SLOTS, PEER_SLOTS = 8, 4
"""Chunks on their way at a time; each takes one chunk of memory until it is written."""

NEXT_ASK, IDLE_ASK = 0.02, 0.25
"""Seconds between two questions to the tracker while nothing lands; idle nodes slow down to the second."""

MOST_ORIGIN_FAILURES = 3
"""In a row, each after the source's own retries: then the load itself asks the origin and says what is wrong."""


class Lost(Exception):
    """The peer answers, but has not got the chunk, or its bytes are wrong."""


@dataclass(frozen=True, kw_only=True)
class Landed:
    """What became of one assignment."""

    assignment: Assignment
    checksum: int | None = None
    error: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What a node is in the swarm."""

    node: str
    endpoint: str
    token: str
    tracker: Tracking


class Fill:
    """Runs in one thread of one process of the node, with workers of its own."""

    def __init__(self, entry: Entry, origin: Source, membership: Membership) -> None:
        """The entry and the origin stay the caller's, who may close them after `run`."""
        self._entry, self._origin, self._membership = entry, origin, membership
        self._pools: dict[str, Pool] = {}
        self._landed: queue.SimpleQueue[Landed] = queue.SimpleQueue()
        self._free = {True: ORIGIN_SLOTS, False: PEER_SLOTS}
        self._failures = 0
        self.from_origin = self.from_peers = 0

    def run(self, interrupt: Interrupt) -> None:
        """Return when the content is complete; raise when it cannot be, or when interrupted."""
        self._begin()
        workers = ThreadPoolExecutor(ORIGIN_SLOTS + PEER_SLOTS, thread_name_prefix="weights-fill")
        with interrupt.child() as inner, workers as pool:
            try:
                self._take_turns(pool, inner)
            finally:
                inner.fire(LoadError("the fill is over"))
                for connections in list(self._pools.values()):
                    connections.close()

    def _take_turns(self, pool: ThreadPoolExecutor, interrupt: Interrupt) -> None:
        report, pause = Report(), NEXT_ASK
        while True:
            interrupt.check()
            turn = self._turn(report)
            if turn.done:
                return
            if not turn.known:
                self._begin()
            for assignment in turn.assignments:
                self._free[assignment.source is None] -= 1
                pool.submit(self._fetch, assignment, interrupt)
            report = self._collect(pause)
            pause = NEXT_ASK if report.landed or turn.assignments else min(IDLE_ASK, pause * 1.5)

    def _begin(self) -> None:
        me = self._membership
        have = sum(1 << chunk for chunk in self._entry.present())
        me.tracker.begin(me.node, me.endpoint, Held(content=self._entry.content, have=have))

    def _turn(self, report: Report) -> Turn:
        me = self._membership
        return me.tracker.turn(me.node, self._entry.content.key, report, (self._free[True], self._free[False]))

    def _collect(self, pause: float) -> Report:
        """Wait for something to land, but not long, and take all that has."""
        landed: list[tuple[int, int]] = []
        failed: list[tuple[int, bool]] = []
        until = time.monotonic() + pause
        while True:
            try:
                found = self._landed.get(timeout=max(0.0, until - time.monotonic()) if not landed else 0.0)
            except queue.Empty:
                return Report(landed=tuple(landed), failed=tuple(failed))
            self._free[found.assignment.source is None] += 1
            if found.checksum is not None:
                landed.append((found.assignment.chunk, found.checksum))
            else:
                self._judge(found)
                failed.append((found.assignment.chunk, isinstance(found.error, Lost)))

    def _judge(self, found: Landed) -> None:
        """Give up on what trying elsewhere cannot mend."""
        error = found.error
        assert error is not None
        if not isinstance(error, (LoadError, Broken, Lost)) or isinstance(error, SourceChanged):
            raise error
        if found.assignment.source is None:
            self._failures += 1
            if self._failures >= MOST_ORIGIN_FAILURES:
                raise error

    def _fetch(self, assignment: Assignment, interrupt: Interrupt) -> None:
        try:
            checksum = self._bring(assignment, interrupt)
        except Exception as error:
            self._landed.put(Landed(assignment=assignment, error=error))
        else:
            self._landed.put(Landed(assignment=assignment, checksum=checksum))

    def _bring(self, assignment: Assignment, interrupt: Interrupt) -> int:
        chunk, content = assignment.chunk, self._entry.content
        there = self._entry.checksum(chunk)
        if there is not None:  # another process of this node was faster
            return there
        buffer = memoryview(bytearray(content.length_of(chunk)))
        offset = chunk * content.chunk_size
        if assignment.source is None:
            self._origin.read_into(offset, buffer, interrupt)
            self.from_origin += len(buffer)
            self._failures = 0
            return self._entry.write(chunk, buffer)
        said = self._from_peer(assignment, offset, buffer, interrupt)
        checksum = xxhash.xxh3_64_intdigest(buffer)
        # A tracker that was started anew knows no checksums; the peer's record goes back to the origin all the same.
        if assignment.checksum not in (None, checksum) or said != checksum_text(checksum):
            raise Lost(f"chunk {chunk} from {assignment.source} is not what the origin gave")
        self.from_peers += len(buffer)
        return self._entry.write(chunk, buffer, checksum)

    def _from_peer(self, assignment: Assignment, offset: int, buffer: memoryview, interrupt: Interrupt) -> str:
        """Receive a chunk; return the checksum that the peer has on record, empty if it does not say."""
        assert assignment.endpoint is not None
        host, _, port = assignment.endpoint.rpartition(":")
        place = Place(host=host, port=int(port), target=f"/{self._entry.content.key}")
        connections = self._pools.setdefault(assignment.endpoint, Pool())
        span = f"bytes={offset}-{offset + len(buffer) - 1}"
        asked = {"Authorization": f"Bearer {self._membership.token}", "Range": span}
        connection, fresh = connections.take(place, interrupt)
        complete, status, said = False, 0, ""
        try:
            answer = connection.ask(place, asked, interrupt)
            status, said = answer.status, answer.headers.get(CHECKSUM.lower(), "")
            fits = status == 206 and answer.length == len(buffer)
            complete = fits and connection.receive(buffer, interrupt) == len(buffer)
        except Broken:
            if fresh:
                raise
        finally:
            if complete:
                connections.give(connection)
            else:
                connection.close()
        if status == 0:  # it had idled until the peer closed it
            return self._from_peer(assignment, offset, buffer, interrupt)
        if status != 206:
            raise Lost(f"{assignment.endpoint} answered {status}")
        if not complete:
            raise Broken(f"{assignment.endpoint} ended its answer early")
        return said
