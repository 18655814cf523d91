"""The one place that reads the machine's clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class SystemClock:
    """Real time: implements `reconciler.ports.Clock`."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(tz=UTC)

    async def sleep(self, duration: timedelta) -> None:
        """Wait; not at all when `duration` is negative."""
        await asyncio.sleep(max(duration.total_seconds(), 0.0))
