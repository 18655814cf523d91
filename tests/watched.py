"""A Git source under test, with a record of what it asked its host for."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.git import GitSettings, GitSource
from reconciler.ports import Reading

SPEC = """\
apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {{name: {name}}}
spec:
  application:
    import_path: app:build
    deployments:
      - {{name: Chat, num_replicas: 1}}
"""


def spec(name: str) -> str:
    return SPEC.format(name=name)


class Watched:
    """A source on a repository, and how often it asked for what."""

    def __init__(self, url: Path | str, state: Path, **settings: object) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        options = GitSettings(url=str(url), state=state, **settings)  # type: ignore[arg-type]
        self.source = GitSource(options, SystemClock(), lambda kind, outcome: self.requests.update([(kind, outcome)]))

    async def names(self) -> list[str]:
        return names(await self.source.read())

    async def see(self, sha: str, limit: float = 5) -> Reading:
        async with asyncio.timeout(limit):
            while (reading := await self.source.read()).desired is None or reading.desired.commit.sha != sha:
                await self.source.changed(reading.outlook)
        return reading


def names(reading: Reading) -> list[str]:
    assert reading.desired is not None, reading.problem
    return [service.name for service in reading.desired.services]
