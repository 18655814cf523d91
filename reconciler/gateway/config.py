"""HAProxy's configuration and map files as text. Pure: the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

from reconciler.gateway.clients import HASH_SEED, TABLE
from reconciler.gateway.extras import MATCHED
from reconciler.gateway.lanes import lane_name
from reconciler.gateway.near import FAR, FIRST_PLACE, LOAD, MOST_PLACES, NEAR
from reconciler.gateway.rows import FIRST_SHARE, STRIPS, Row
from specs.evidence import CLIENT_GROUPS
from specs.routes import FULL, MOST_SHARES

ROUTES_MAP = "./routes.map"
LANES_MAP = "./lanes.map"
HEADERS_MAP = "./headers.map"
"""Names as HAProxy knows the maps: relative to its working directory, the gateway's folder."""

NO_PREFIX = "-"
"""A free lane's entry in the lanes map: `set map` changes entries but makes none."""

SERVER_OPTIONS = (
    "check inter 1s fastinter 250ms downinter 1s fall 2 rise 1"
    " observe layer4 error-limit 2 on-error mark-down pool-purge-delay 1s"
)
"""A replica that begins to stop answers 503 on its health check: it is left within 1.25 s, of 30 s that it
goes on serving; a dead one at the second connection that it refuses. Idle connections go within seconds,
long before uvicorn's keep-alive ends (90 s), so that no request is sent into a closing connection."""

BUSY_RATE = 300
"""Requests a second above which only some log lines are sent: reading one costs the daemon some 20 us."""

SAMPLE = 16

COOKIE_OF = "^([^=]+)=(?:.*?;[ ]?)?\\1=([^;]+).*"
HEADER_OF = "^(?s)([^=]+)=(?:.*?[[:cntrl:]])?\\1:[ ]([^[:cntrl:]]+).*"
"""The value of the cookie, or of the header, that is named before the first `=`: the first of several."""

_PROBLEMS = (
    (400, "Bad Request", "", "the request could not be read"),
    (408, "Request Timeout", "", "the request did not arrive in time"),
    (500, "Internal Server Error", "", "the gateway failed"),
    (502, "Bad Gateway", "", "the replica closed the connection without an answer"),
    (503, "Service Unavailable", " hdr Retry-After 1", "the replica could not be reached"),
    (504, "Gateway Timeout", "", "the replica did not answer in time"),
)


@dataclass(frozen=True, kw_only=True)
class Process:
    """What one HAProxy process is started with; fixed for its life."""

    admin: str
    """File name of its admin socket."""
    address: str
    """`HOST:PORT`; the socket itself comes from the supervisor, found by its address."""
    lanes: int
    threads: int
    maxconn: int
    is_direct: bool
    zone: str | None = None
    """A comment in the rules: the rows say which lanes are there. With another zone all rows are others, and a new
    process has them from its first request."""
    tls_pem: str = ""
    tls_digest: str = ""
    """Of the certificate's content: a renewed one needs a new process."""
    hard_stop_seconds: int = 3600


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a process knows when it starts; all of it can be changed while it runs."""

    rows: tuple[Row, ...] = ()
    headers: frozenset[str] = frozenset()
    """The regular expressions of the header routes."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Private prefix per leased lane."""
    servers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """`NAME ADDRESS` of the servers per lane."""
    patience: timedelta = timedelta(hours=1)
    """The longest request of any service: so long may a replaced process finish its streams."""


@cache
def _template() -> Template:
    source = files("reconciler.gateway").joinpath("templates/haproxy.cfg.j2").read_text(encoding="utf-8")
    return Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True).from_string(source)  # noqa: S701 (no HTML)


def render_config(process: Process, content: Content) -> str:
    """Return the configuration file."""
    return _template().render(
        process.__dict__,
        tls=f" ssl crt {shlex.quote(process.tls_pem)} alpn h2,http/1.1" if process.tls_pem else "",
        scheme="https" if process.tls_pem else "http",
        full=FULL,
        first=FIRST_SHARE,
        shares=range(FIRST_SHARE, FIRST_SHARE + 2 * MOST_SHARES, 2),
        strips=STRIPS,
        cookie=COOKIE_OF,
        header=HEADER_OF,
        headers_map=HEADERS_MAP,
        clients=TABLE,
        groups=CLIENT_GROUPS,
        load=LOAD,
        sides=(NEAR, FAR),
        places=range(FIRST_PLACE, FIRST_PLACE + 2 * MOST_PLACES, 2),
        group_seed=HASH_SEED,
        busy_rate=BUSY_RATE,
        sample=SAMPLE,
        problems=_PROBLEMS,
        bad_path=_answer(400, "Bad Request", "the path has dot segments or does not decode"),
        not_found=_answer(404, "Not Found", "no service has this route"),
        server_options=SERVER_OPTIONS,
        lanes=[(lane, content.servers.get(lane, ())) for lane in map(lane_name, range(process.lanes))],
    )


def _answer(status: int, title: str, detail: str) -> str:
    body = f'{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}'
    return f"content-type \"application/problem+json\" string '{body}'"


def render_routes(rows: Iterable[Row]) -> str:
    """Return the routes map, a row per service."""
    return "".join(f"{row.key} {row}\n" for row in sorted(rows, key=lambda row: row.key))


def render_headers(rules: Iterable[str]) -> str:
    """Return the map of header routes, an entry per rule."""
    return "".join(f"{rule} {MATCHED}\n" for rule in sorted(rules))


def render_lanes(lanes: int, prefixes: Mapping[str, str]) -> str:
    """Return the lanes map, an entry per lane, leased or not."""
    return "".join(f"{lane} {prefixes.get(lane, NO_PREFIX)}\n" for lane in map(lane_name, range(lanes)))


def version(process: Process) -> str:
    """Return a digest of everything that only a new process can change, the number of lanes aside."""
    fixed = replace(process, admin="", lanes=1, hard_stop_seconds=0)
    return hashlib.sha256(render_config(fixed, Content()).encode()).hexdigest()[:12]
