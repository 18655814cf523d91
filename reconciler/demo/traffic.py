"""A steady small load on the sample service; every single answer is counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from reconciler.demo.guest_book import Executions, read_executions

PATIENCE_SECONDS = 10.0
"""A request without an answer for this long has failed."""

MOST_KEPT = 5
"""Failures that are told in words; their number is always exact."""

LONGEST_ANSWER = 60

POST_EVERY = 3
"""Every third request is a POST, which must not be executed twice whatever happens to the first try."""


@dataclass(kw_only=True)
class Tally:
    """What came back. `answers` counts by the text of the answer, `failures` by what went wrong."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    failed_at: list[float] = field(default_factory=list)
    """When the requests that failed were sent, by the monotonic clock."""
    slowest: float = 0.0

    @property
    def failed(self) -> int:
        """Return how many requests had no answer, or one that was not a 200."""
        return self.failures.total()

    @property
    def sent(self) -> int:
        """Return how many requests were sent and have come to their end."""
        return self.answered + self.failed

    @property
    def answered(self) -> int:
        """Return how many were answered with a 200."""
        return self.answers.total()

    def copy(self) -> Tally:
        """Return the tally as it is now."""
        return Tally(
            answers=self.answers.copy(),
            failures=self.failures.copy(),
            examples=list(self.examples),
            failed_at=list(self.failed_at),
            slowest=self.slowest,
        )

    def since(self, before: Tally) -> Tally:
        """Return what was added after `before` was copied."""
        return Tally(
            answers=self.answers - before.answers,
            failures=self.failures - before.failures,
            failed_at=self.failed_at[len(before.failed_at) :],
        )


class Load:
    """Sends GET and POST requests at a steady rate until cancelled. The service writes each POST into `book`."""

    def __init__(self, url: str, rate: float, book: Path) -> None:
        """`rate` is in requests per second; requests do not wait for one another."""
        self._url = url
        self._period = 1.0 / rate
        self._book = book
        self._number = 0
        self._welcomed: set[str] = set()
        self.tally = Tally()

    def executions(self) -> Executions:
        """Return what became of the POSTs that were answered so far."""
        return read_executions(self._book, self._welcomed)

    async def run(self) -> None:
        """Send until cancelled. Cancelling waits for the requests under way: none is cut by us."""
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20)
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS, limits=limits) as client:
            under_way: set[asyncio.Task[None]] = set()
            try:
                await self._send_steadily(client, under_way)
            finally:
                if under_way:
                    await asyncio.wait(under_way, timeout=PATIENCE_SECONDS)

    async def _send_steadily(self, client: httpx.AsyncClient, under_way: set[asyncio.Task[None]]) -> None:
        due = time.monotonic()
        while True:
            request = asyncio.ensure_future(self._one(client))
            under_way.add(request)
            request.add_done_callback(under_way.discard)
            # After a stall of this process, the missed requests are not sent in one burst.
            due = max(due + self._period, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _one(self, client: httpx.AsyncClient) -> None:
        began = time.monotonic()
        self._number += 1
        guest = f"guest {self._number}" if self._number % POST_EVERY == 0 else ""
        try:
            if guest:
                response = await client.post(f"{self._url}guests", content=guest)
            else:
                response = await client.get(self._url)
        except httpx.HTTPError as error:
            self._fail(began, type(error).__name__, str(error))
            return
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)
        text = response.text.strip().partition("\n")[0][:LONGEST_ANSWER]
        if response.status_code == httpx.codes.OK:
            self.tally.answers[text] += 1
            if guest:
                self._welcomed.add(guest)
        else:
            self._fail(began, f"status {response.status_code}", text)

    def _fail(self, began: float, kind: str, detail: str) -> None:
        self.tally.failures[kind] += 1
        self.tally.failed_at.append(began)
        if len(self.tally.examples) < MOST_KEPT:
            self.tally.examples.append(f"{kind}: {detail}" if detail else kind)
