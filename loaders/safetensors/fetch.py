"""Threads that bring chunks from their sources to where they land, as many as the origin is worth.

A straggler does not hold up the end: when nothing is left to begin, an idle thread asks again for the chunk that takes
far longer than the others did, and the first answer counts. The second is received elsewhere and put in place only
after the first thread has let go, so that nothing writes to memory that the caller already has.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from loaders.safetensors.errors import LoadError
from loaders.safetensors.plan import Chunk
from loaders.safetensors.sources import Source
from loaders.safetensors.sources.interrupt import Interrupt

STRAGGLES_AFTER = 3.0
"""A chunk that takes this many times the median is asked for again."""
MOST_REQUESTS = 4
"""Of one chunk at a time: a repeated request may straggle too, but a dead origin must not be asked without end."""
SHORTEST_PATIENCE, PATIENCE_WITHOUT_MEDIAN = 0.25, 2.0
MEDIAN_OF = 4
ENDS_WITHIN = 5.0
"""How long a broken-off load waits for its threads; a file on a dead network disk may keep one for longer."""


class Landing(Protocol):
    """Where chunks come to lie. Called from many threads."""

    def read(self, chunk: Chunk, source: Source, interrupt: Interrupt) -> None:
        """Read the chunk into its place."""

    def put(self, chunk: Chunk, content: memoryview) -> None:
        """Copy the chunk's bytes into its place."""

    def name(self, chunk: Chunk, offset: int) -> str:
        """Return the tensor that this byte of the file belongs to."""


class Gate(Protocol):
    """Says when the next chunk may begin."""

    def admits(self, chunk: Chunk) -> bool:
        """Tell whether there is room for it, and if so, take the room."""


class Overtaken(LoadError):
    """The other request for the same chunk was faster; no caller ever sees this."""


class Flight:
    """A chunk on its way, perhaps asked for more than once."""

    def __init__(self, chunk: Chunk) -> None:
        """It begins now."""
        self.chunk = chunk
        self.began = time.monotonic()
        self.asked = self.began
        self.first: Interrupt | None = None
        self.others: list[Interrupt] = []
        self.let_go = threading.Event()
        self._lock = threading.Lock()
        self._won = False

    def wins(self) -> bool:
        """Tell whether the calling thread is the one whose answer counts: true once."""
        with self._lock:
            won, self._won = self._won, True
            return not won


class Fetch:
    """Brings all chunks of one load. Iterate over `landed` in one thread; `stop` ends everything."""

    def __init__(
        self, chunks: Sequence[Chunk], sources: Sequence[Source], landing: Landing, gate: Gate | None = None
    ) -> None:
        """Nothing is read before `landed` is iterated over."""
        self._waiting = list(reversed(chunks))
        self._sources = sources
        self._landing = landing
        self._gate = gate
        self._interrupt = Interrupt()
        self._changed = threading.Condition()
        self._flights: set[Flight] = set()
        self._times: list[float] = []
        self._done: queue.SimpleQueue[Chunk | BaseException] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._alive = 0

    def landed(self, interrupt: Interrupt, tick: Callable[[], None], every: float) -> Iterator[Chunk]:
        """Yield chunks as they have landed; call `tick` at least that often, in seconds."""
        total = len(self._waiting)
        with interrupt.child() as self._interrupt, self._interrupt.breaking(self._broken_off):
            try:
                self._staff()
                for _ in range(total):
                    yield self._next(tick, every)
            finally:
                self._interrupt.fire(LoadError("the load is over"))
                self._join()

    def _next(self, tick: Callable[[], None], every: float) -> Chunk:
        while True:
            tick()
            try:
                found = self._done.get(timeout=every)
            except queue.Empty:
                continue
            if isinstance(found, BaseException):
                raise found
            return found

    def _broken_off(self) -> None:
        if self._interrupt.error is not None:
            self._done.put(self._interrupt.error)
        self.nudge()

    def nudge(self) -> None:
        """Let waiting threads look again: the gate may have opened."""
        with self._changed:
            self._changed.notify_all()

    def _join(self) -> None:
        until = time.monotonic() + ENDS_WITHIN
        with self._changed:
            threads = tuple(self._threads)
        for thread in threads:
            if thread.is_alive():  # or over, or not begun by the one before it in this list, which did not end in time
                thread.join(max(0.0, until - time.monotonic()))

    def _staff(self) -> None:
        """Start threads up to what the next chunk's source is worth."""
        while (thread := self._one_more()) is not None:
            thread.start()  # without the lock, which those that began already need for their first chunk

    def _one_more(self) -> threading.Thread | None:
        with self._changed:
            most = min(self._worth(), len(self._waiting) + len(self._flights)) if self._waiting else 0
            if self._interrupt.fired or self._alive >= most:
                return None
            self._alive += 1
            self._threads.append(threading.Thread(target=self._work, name="weights", daemon=True))
            return self._threads[-1]

    def _worth(self) -> int:
        return self._sources[self._waiting[-1].file].streams.wanted

    def _work(self) -> None:
        try:
            while (turn := self._take()) is not None:
                flight, again = turn
                if again is None:
                    self._fly(flight)
                else:
                    self._ask_again(flight, again)
        except LoadError as error:
            self._interrupt.fire(error)
        except BaseException as error:  # whatever ends a thread must end the load, or it would wait for ever
            self._done.put(error)

    def _take(self) -> tuple[Flight, Interrupt | None] | None:
        """Return a new flight, or one to ask for again and that request's interrupt; `None` ends this thread."""
        with self._changed:
            while not self._interrupt.fired and not (self._waiting and self._alive > self._worth()):
                if self._waiting and (self._gate is None or self._gate.admits(self._waiting[-1])):
                    flight = Flight(self._waiting.pop())
                    self._flights.add(flight)
                    return flight, None
                straggler = None if self._waiting else self._straggler()
                if not self._waiting and straggler is None:
                    break
                patience = self._patience(straggler) if straggler else None
                if straggler and patience == 0:
                    again = Interrupt()
                    straggler.others.append(again)
                    straggler.asked = time.monotonic()
                    return straggler, again
                self._changed.wait(patience)
            self._alive -= 1
            return None

    def _straggler(self) -> Flight | None:
        """Return the flight that was asked for longest ago, if it may be asked for again."""
        hedged = [flight for flight in self._flights if self._sources[flight.chunk.file].streams.hedged]
        able = [flight for flight in hedged if len(flight.others) < MOST_REQUESTS - 1]
        return min(able, key=lambda flight: flight.asked, default=None)

    def _patience(self, flight: Flight) -> float:
        known = len(self._times) >= MEDIAN_OF
        usual = STRAGGLES_AFTER * statistics.median(self._times) if known else PATIENCE_WITHOUT_MEDIAN
        return max(0.0, flight.asked + max(SHORTEST_PATIENCE, usual) - time.monotonic())

    def _fly(self, flight: Flight) -> None:
        source, cpu = self._sources[flight.chunk.file], time.thread_time()
        try:
            with self._interrupt.child() as flight.first:
                self._landing.read(flight.chunk, source, flight.first)
        except Overtaken:
            return
        except LoadError as error:
            if error.tensor is None and error.span is not None:
                error.tensor = self._landing.name(flight.chunk, error.span[0])
            raise
        finally:
            flight.let_go.set()
        if flight.wins():
            for other in tuple(flight.others):
                other.fire(Overtaken("the first request was faster"))
            now = time.monotonic()
            wall = now - flight.began
            self._times.append(wall)
            source.streams.served(flight.chunk.size, wall=wall, cpu=time.thread_time() - cpu, now=now)
            self._has_landed(flight)

    def _ask_again(self, flight: Flight, interrupt: Interrupt) -> None:
        """Ask once more; when that fails, an earlier request may still succeed."""
        content = memoryview(bytearray(flight.chunk.size))
        try:
            with self._interrupt.breaking(lambda: interrupt.fire(Overtaken("the load is over"))):
                self._sources[flight.chunk.file].read_into(flight.chunk.start, content, interrupt)
        except LoadError:
            return
        if flight.wins():
            for other in (*flight.others, *([flight.first] if flight.first else [])):
                other.fire(Overtaken("another request was faster"))
            while not flight.let_go.wait(0.1):
                self._interrupt.check()
            self._landing.put(flight.chunk, content)
            self._has_landed(flight)

    def _has_landed(self, flight: Flight) -> None:
        with self._changed:
            self._flights.discard(flight)
            self._changed.notify_all()
        self._done.put(flight.chunk)
        self._staff()
