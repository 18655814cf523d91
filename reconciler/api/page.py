"""The status page: rendered here, whole; the browser only fetches it again when something happened."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from reconciler.api import wording
from reconciler.api.places import places_view
from reconciler.api.reads import backend_of
from reconciler.api.views import excerpt, page_view, sight
from reconciler.errors import PortError
from specs.memory import Event

EVENTS_SHOWN = 60

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "age": lambda seconds: wording.span(timedelta(seconds=seconds)),
    "ago": wording.ago,
    "commit": wording.short_commit,
    "count": wording.count,
    "excerpt": excerpt,
    "percent": wording.percent,
    "seconds": wording.seconds,
    "sight": sight,
    "spaced": wording.spaced,
}


async def index(request: Request) -> Response:
    """Answer the whole page."""
    return await _render(request, "page.html")


async def fragment(request: Request) -> Response:
    """Answer the part of the page that changes."""
    return await _render(request, "fragment.html")


async def _render(request: Request, template: str) -> Response:
    backend = backend_of(request)
    now = request.app.state.clock.now()
    cluster = backend.status()
    view = page_view(cluster, await _events(request), now)
    places = places_view(cluster, backend.nodes(), backend.seats())
    return HTMLResponse(TEMPLATES.get_template(template).render(view=view, places=places, now=now))


async def _events(request: Request) -> tuple[Event, ...]:
    """Return the newest events, newest first; none when the store fails: its failure shows in the banner."""
    try:
        return tuple(reversed(await backend_of(request).events(limit=EVENTS_SHOWN)))
    except PortError:
        return ()
