"""Sets the stage, plays the story, and clears everything away again."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.serve_put import ServeStart
from reconciler.demo import farewell
from reconciler.demo.background import Daemon
from reconciler.demo.guest_book import VARIABLE
from reconciler.demo.narrator import Narrator
from reconciler.demo.options import HOST, Options, Ports, claim, free_port
from reconciler.demo.placement import NODES, PlacementStory
from reconciler.demo.placement_repository import PlacementRepository
from reconciler.demo.repository import ROUTE, SERVICE, SampleRepository
from reconciler.demo.screen import Names, Screen
from reconciler.demo.story import Story
from reconciler.demo.teller import Tale
from reconciler.demo.traffic import Load
from reconciler.demo.witness import StoryBroke, Witness
from reconciler.embedded import EmbeddedCluster
from reconciler.errors import Stalled

ZONES = ("a", "b", "c")
"""A node in each, for the story of a rollout."""

CPUS_PER_NODE = 2.0
"""What Ray is told: the replicas ask for a fifth each, and two real cores are enough."""

SERVE_STARTS_WITHIN = 60.0
DAEMON_STARTS_WITHIN = timedelta(seconds=30)

INTERRUPTED = 128
"""Shells add the signal's number to this."""


@dataclass(kw_only=True)
class Demo:
    """One run of the demo."""

    options: Options
    ports: Ports
    folder: Path
    screen: Screen
    names: Names = field(default_factory=Names)
    differences: list[str] = field(default_factory=list)
    is_told: bool = False
    """The story is over and its table printed: an interrupt from now on is the user's ordinary way out."""

    @property
    def places(self) -> farewell.Places:
        """Return where everything is."""
        return farewell.Places(
            page=f"http://{HOST}:{self.ports.page}",
            service=f"http://{HOST}:{self.ports.gateway}{ROUTE}/",
            ray=f"http://{HOST}:{self.ports.ray}",
            repository=self.folder / "repo",
            log=self.folder / "daemon.log",
        )

    @property
    def guest_book(self) -> Path:
        """Return the file in which the service counts what it executes."""
        return self.folder / "guests.txt"

    async def run(self) -> None:
        """Set the stage, play, and stay if asked to. Raises Stalled when the stage cannot be set."""
        places = self.places
        repository = (PlacementRepository if self.options.placement else SampleRepository)(places.repository)
        repository.create()
        daemon = Daemon(
            repository=places.repository,
            state=self.folder / "state",
            log=places.log,
            ports=self.ports,
            remove=self.folder if self.options.is_folder_temporary else None,
        )
        self.screen.title("Setting the stage")
        zones = NODES if self.options.placement else ZONES
        self.screen.say(f"Starting a Ray cluster on this machine: a head and {len(zones)} workers in zones a, b and c.")
        async with _cluster(zones, self.ports, self.guest_book) as cluster:
            self.screen.say(f"Ray is up after {cluster.started_in.total_seconds():.0f} s; starting Serve on it.")
            await _start_serve(cluster.dashboard_url)
            with daemon:
                await self._play(self._tale_on(cluster, repository), daemon)
                self.screen.end_live()
                if not self.is_told:
                    self.screen.quote(daemon.tail())
            self.screen.say("Ending the daemon, the gateway and Ray.")

    def _tale_on(self, cluster: EmbeddedCluster, repository: SampleRepository) -> Callable[..., Tale]:
        """Return what makes the story that was chosen."""
        if isinstance(repository, PlacementRepository):
            return partial(PlacementStory, repository=repository, cluster=cluster, page_url=self.places.page)
        return partial(Story, repository=repository)

    async def _play(self, make_tale: Callable[..., Tale], daemon: Daemon) -> None:
        places = self.places
        witness = Witness(page_url=places.page, ray_url=places.ray, service=SERVICE)
        load = Load(places.service, self.options.rate, self.guest_book)
        narrator = Narrator(screen=self.screen, names=self.names, tally=load.tally)
        witness.on_sight, witness.on_event = narrator.saw, narrator.heard
        try:
            async with asyncio.TaskGroup() as group:
                guard = group.create_task(_guard(daemon))
                await _answering(places.page)
                self.screen.say("The daemon and the gateway are up (`heliostat run`, as you would run it).")
                for line in farewell.where(places):
                    self.screen.plain(line)
                watching = group.create_task(witness.run())
                loads: list[asyncio.Task[None]] = []
                story = make_tale(
                    witness=witness,
                    load=load,
                    screen=self.screen,
                    names=self.names,
                    start_load=lambda: loads.append(group.create_task(load.run())),
                )
                await self._tell(story, loads)
                if self.options.stay:
                    await self._stay(narrator, load)
                for task in (guard, watching, *loads):
                    task.cancel()
        except* (StoryBroke, Stalled) as broke:
            self.differences += [str(error) for error in broke.exceptions]

    async def _tell(self, story: Tale, loads: list[asyncio.Task[None]]) -> None:
        began = time.monotonic()
        broke: StoryBroke | None = None
        try:
            await story.play()
        except StoryBroke as error:
            broke = error
        total = timedelta(seconds=time.monotonic() - began)
        if broke is not None or not self.options.stay:
            await _end(loads)
        story.look_back()
        self.differences += story.differences
        self.screen.end_live()
        print(f"\n{story.table(total)}\n", flush=True)
        if broke is not None:
            raise broke
        self.is_told = True
        print(farewell.verdict(self.differences, self.screen, story.moral), flush=True)

    async def _stay(self, narrator: Narrator, load: Load) -> None:
        narrator.is_open = True
        steps = farewell.placement_steps if self.options.placement else farewell.next_steps
        for line in steps(self.places, self.screen):
            self.screen.plain(line)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.screen.say(farewell.sums(load.tally, load.executions()))


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _guard(daemon: Daemon) -> None:
    await daemon.watch()
    raise StoryBroke(f"the daemon ended by itself. Its log ends with:\n{daemon.tail()}")


@asynccontextmanager
async def _cluster(zones: tuple[str, ...], ports: Ports, guest_book: Path) -> AsyncIterator[EmbeddedCluster]:
    """Lend a cluster whose replicas know where the guest book is: the spec has no paths of this machine."""
    async with EmbeddedCluster(
        zones=zones,
        cpus_per_node=CPUS_PER_NODE,
        dashboard_port=ports.ray,
        environment={VARIABLE: str(guest_book)},
    ) as cluster:
        yield cluster


async def _start_serve(ray_url: str) -> None:
    """Start Serve with one proxy on a free port: nobody asks the proxies here, and each costs memory."""
    start = ServeStart(port=free_port(), proxy_location="HeadOnly")
    async with httpx.AsyncClient(trust_env=False, timeout=SERVE_STARTS_WITHIN) as client:
        try:
            answer = await client.put(
                f"{ray_url}/api/serve/applications/", json={**start.document(), "applications": []}
            )
        except httpx.HTTPError as error:
            raise Stalled(f"Serve did not start on the local Ray cluster ({type(error).__name__})") from error
    if answer.is_error:
        raise Stalled(f"Serve did not start on the local Ray cluster: {answer.text[-500:]}")


async def _answering(page: str) -> None:
    """Wait until the daemon has read the repository and seen Ray. Raises StoryBroke with what is in its way."""
    clock, problem = SystemClock(), "it does not answer"
    async with httpx.AsyncClient(trust_env=False) as client:
        deadline = clock.now() + DAEMON_STARTS_WITHIN
        while clock.now() < deadline:
            with suppress(httpx.HTTPError):
                if (await client.get(f"{page}/readyz")).status_code == httpx.codes.OK:
                    return
                problem = (await client.get(f"{page}/api/v1/status")).json()["problem"]
            await clock.sleep(timedelta(milliseconds=100))
    raise StoryBroke(f"the daemon was not ready within {DAEMON_STARTS_WITHIN.total_seconds():g} s: {problem}")


@contextmanager
def _working_folder(options: Options) -> Iterator[Path]:
    """Lend the folder that was asked for, or a temporary one. Raises Stalled."""
    if options.folder is not None:
        folder = options.folder.expanduser().resolve()
        with suppress(FileNotFoundError):
            if any(folder.iterdir()):
                raise Stalled(f"{folder} is not empty: give an empty or a new folder, or leave --dir out")
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix="heliostat-demo-"))
    try:
        yield folder
    finally:
        if options.is_folder_temporary:
            shutil.rmtree(folder, ignore_errors=True)


def run_demo(options: Options, screen: Screen) -> int:
    """Run the demo; return the process's exit status. Raises Stalled when it cannot even begin."""
    ports = claim(options.ports)
    with _working_folder(options) as folder:
        status = asyncio.run(_until_told(Demo(options=options, ports=ports, folder=folder, screen=screen)))
    if options.keep or options.folder is not None:
        screen.say(f"Kept: {folder}")
    return status


async def _until_told(demo: Demo) -> int:
    """Run until the end or a signal; a second signal does not cut the clearing up short."""
    task, told = asyncio.ensure_future(demo.run()), list[signal.Signals]()

    def stop(number: signal.Signals) -> None:
        demo.screen.end_live()
        demo.screen.say("Clearing up; this takes some seconds." if told else f"{number.name}: clearing up.")
        if not told:
            task.cancel()
        told.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not told:
            raise
    if demo.is_told:
        return 1 if demo.differences else 0
    if told:
        return INTERRUPTED + told[0]
    print(farewell.verdict(demo.differences, demo.screen), file=sys.stdout, flush=True)
    return 1
