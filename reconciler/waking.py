"""Waiting that can be cut short: every task that turns again and again waits in this way."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from reconciler.ports import Clock


async def sleep_until_woken(clock: Clock, longest: timedelta, woken: asyncio.Event) -> None:
    """Wait for a duration or for the event, whichever comes first; the event is left as it is."""
    sleep = asyncio.ensure_future(clock.sleep(longest))
    waking = asyncio.ensure_future(woken.wait())
    try:
        await asyncio.wait((sleep, waking), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleep.cancel()
        waking.cancel()
