"""The daemon's web application: routes, error documents, guards."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from reconciler.api import acts, compaction, page, plans, preemption, reads, streams, webhooks
from reconciler.api.backend import Backend
from reconciler.api.guard import Access, Guard
from reconciler.api.problems import HANDLERS
from reconciler.api.webhooks import Sender, Webhooks
from reconciler.ports import Clock
from specs.commands import Verb

V1 = "/api/v1"
SERVICE = f"{V1}/services/{{name}}"
STATIC = Path(__file__).parent / "static"


def make_app(backend: Backend, access: Access, clock: Clock, hooks: Webhooks | None = None) -> Starlette:
    """Return the application; without `hooks` webhooks are off.

    Set `app.state.closing` to end its long polls and streams.
    """
    app = Starlette(
        routes=[*_pages(), *_reads(), *_acts(), *_webhooks()],
        middleware=[Middleware(Guard, access=access, clock=clock)],
        exception_handlers=HANDLERS,
    )
    app.state.backend = backend
    app.state.access = access
    app.state.clock = clock
    app.state.webhooks = hooks or Webhooks()
    app.state.compaction = None
    app.state.preemption = None
    app.state.closing = asyncio.Event()
    app.state.streams = 0
    return app


def _pages() -> list[BaseRoute]:
    return [
        Route("/", page.index),
        Route("/fragment", page.fragment),
        Mount("/static", StaticFiles(directory=STATIC)),
        Route("/healthz", reads.healthz),
        Route("/readyz", reads.readyz),
        Route("/metrics", reads.metrics),
    ]


def _reads() -> list[BaseRoute]:
    return [
        Route(f"{V1}/status", reads.status),
        Route(SERVICE, reads.service),
        Route(f"{SERVICE}/history", reads.history),
        Route(f"{SERVICE}/events", reads.events),
        Route(f"{V1}/nodes", reads.nodes),
        Route(f"{V1}/plan", plans.answer, methods=["GET", "POST"]),
        Route(f"{V1}/apply", plans.apply, methods=["POST"]),
        Route(f"{V1}/release", plans.release, methods=["POST"]),
        Route(f"{V1}/compaction", compaction.show),
        Route(f"{V1}/events", reads.events),
        Route(f"{V1}/events/stream", streams.stream),
        Route(f"{V1}/routes", reads.routes),
    ]


def _acts() -> list[BaseRoute]:
    verbs = [Route(f"{SERVICE}/{verb.value}", partial(acts.act, verb), methods=["POST"]) for verb in Verb]
    return [
        *verbs,
        Route(f"{V1}/compaction/apply", compaction.apply, methods=["POST"]),
        Route(f"{V1}/nodes/{{id}}/preemption", preemption.note, methods=["POST"]),
    ]


def _webhooks() -> list[BaseRoute]:
    return [
        Route(f"{webhooks.PREFIX}{sender.value}", partial(webhooks.receive, sender), methods=["POST"])
        for sender in Sender
    ]
