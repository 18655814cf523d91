from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import timedelta
from html.parser import HTMLParser

import httpx
import pytest

from reconciler.api.app import STATIC, make_app
from reconciler.api.places import MOST_NODES, places_view
from reconciler.api.views import excerpt, page_view
from reconciler.api.wording import ago, count, percent, seconds, short_commit, span
from reconciler.cli.overview import service_text
from reconciler.errors import Stalled
from specs.staging import Progress, StagingState
from specs.status import CrossingStatus, StagingStatus
from tests.unit.api.backends import (
    NOW,
    TRACEBACK,
    MemoryBackend,
    chat,
    cluster,
    sample_events,
    sample_nodes,
    sample_seats,
    steady,
    troubled,
)
from tests.unit.api.serving import ACCESS, FixedClock

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Checks nesting, and collects what tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def backend() -> MemoryBackend:
    backend = MemoryBackend(troubled())
    backend.logged = list(sample_events())
    return backend


@pytest.fixture
async def client(backend: MemoryBackend) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=make_app(backend, ACCESS, FixedClock()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8484") as client:
        yield client


async def test_an_analysis_is_shown_measure_by_measure(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.cluster = cluster(chat())
    text = Outline((await client.get("/")).text).text
    assert "Analysis inconclusive" in text
    assert "0.2% of 1,200 requests failed" in text
    assert "p99 is 1.2 s (1,500 more requests needed)" in text


WEIGHTS = StagingStatus(revision="b7710de40a12", uris=("s3://models/a", "s3://models/b"), state=StagingState.RUNNING)


@pytest.mark.parametrize(
    ("state", "far", "told", "message"),
    [
        ("running", Progress(), "", "to be started"),
        ("running", Progress(nodes=2), "0 of 2 node(s) ended", ""),
        (
            "running",
            Progress(nodes=2, done=128 << 20, size=448 << 20, ended=1),
            "128.0 of 448.0 MiB in all, 1 of 2 node(s) ended",
            "",
        ),
        (
            "done",
            Progress(nodes=2, done=3 << 30, size=3 << 30, ended=2),
            "3.0 of 3.0 GiB in all, 2 of 2 node(s) ended",
            "",
        ),
        ("failed", Progress(nodes=2, ended=2), "2 of 2 node(s) ended", "n1 and 1 more node(s): forbids it (403)"),
    ],
)
async def test_how_far_weights_are_is_told_on_the_page_and_by_the_command(
    backend: MemoryBackend, client: httpx.AsyncClient, *, state: str, far: Progress, told: str, message: str
) -> None:
    status = replace(chat(), staging=replace(WEIGHTS, state=StagingState(state), message=message, **asdict(far)))
    backend.cluster = cluster(status)
    page = Outline((await client.get("/")).text).text
    command = " ".join(service_text(backend.cluster, status, NOW).split())
    assert " ".join(f"Weights {state} {told} s3://models/a s3://models/b {message}".split()) in page
    assert f"weights {state}{f', {told}' if told else ''} s3://models/a s3://models/b {message}".strip() in command


async def test_the_page_tells_everything_about_a_rollout(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.cluster = cluster(chat())
    page = Outline((await client.get("/")).text)
    for words in (
        "prod-us",
        "main@4f2c9d1e",
        "Paused",
        "pausing at 10% until 10:00:00 (41 s left)",
        "Step 2 of 5: pause 60s , ends in 41 s",
        "3f9a1c2eb771 stable 90% 1.2 M 0 11 ms 64 ms",
        "b7710de40a12 candidate 10% 1,200 2 0.17% 12.3 ms 1.21 s",
        "us-east-1a, us-east-1b",
        "chat.b7710de40a12.us-east-1a.-.1",
        "Embed 0/1 ready",
    ):
        assert words in page.text, words
    bars = [bar for bar in page.all("rect") if bar["class"] in ("stable", "candidate")]
    assert [(bar["x"], bar["width"]) for bar in bars] == [("0.0%", "90.0%"), ("90.0%", "10.0%")]
    steps = [mark["class"] for mark in page.all("li") if mark.get("class") in ("done", "current", "ahead")]
    assert steps == ["done", "current", "ahead", "ahead", "ahead", "ahead"]


async def test_what_needs_a_person_comes_first_with_its_reason(client: httpx.AsyncClient) -> None:
    page = Outline((await client.get("/")).text)
    names = [head["id"] for head in page.all("h2") if (head.get("id") or "").startswith("name-")]
    assert names[:2] == ["name-embeddings", "name-search"]
    assert names[-1] == "name-rerank"
    for words in (
        "Ray at http://127.0.0.1:8265 is unreachable since 74 s",
        "Ray was last seen 1 min ago",
        "services/rerank.yaml:14:7: spec.rollout.maxSurge",
        "Build failed: ModuleNotFoundError: No module named 'search.index'",
        "heliostat retry search",
        "Serve's own +1",
        "unrouted 14",
        "by ann@example.com",
    ):
        assert words in page.text, words
    assert any(part.get("role") == "alert" for part in page.all("section"))


async def test_hostile_messages_stay_text(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    evil = '<script>alert(1)</script><img src=x onerror=alert(1)>" onload="alert(1)\' &amp;'
    backend.cluster = replace(
        cluster(
            replace(chat(), message=evil, name="x", route=evil, labels={evil: evil}),
            replace(steady(evil), candidate=evil, target=evil),
        ),
        cluster=evil,
        commit=evil,
        problem=evil,
        errors=(evil,),
    )
    await backend.log(evil, evil, service=evil, by=evil, revision=evil)
    page = Outline((await client.get("/")).text)
    assert [script for script in page.all("script") if script.get("src") != "/static/page.js"] == []
    assert page.all("img") == []
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert evil in page.text


async def test_long_tracebacks_are_folded_behind_their_last_line(client: httpx.AsyncClient) -> None:
    text = (await client.get("/")).text
    assert len(re.findall(r"<details id=\"quarantine-search\"><summary>", text)) == 1
    assert excerpt(TRACEBACK).line.startswith("ModuleNotFoundError")
    # Serve wraps the traceback of a constructor into its own.
    assert excerpt(f"The deployment failed. RuntimeError: {TRACEBACK}").line.startswith("ModuleNotFoundError")
    assert excerpt(TRACEBACK).rest == TRACEBACK
    assert excerpt("short") == excerpt("short\n")
    assert excerpt("x" * 1000).line == "x" * 239 + "…"
    assert excerpt("").line == ""


async def test_nothing_comes_from_elsewhere_and_nothing_is_inline(client: httpx.AsyncClient) -> None:
    page = Outline((await client.get("/")).text)
    for tag in ("script", "link", "img"):
        for attributes in page.all(tag):
            address = attributes.get("src") or attributes.get("href")
            assert address
            assert address.startswith("/static/")
            assert (await client.get(address)).status_code == 200
    assert page.all("style") == []
    assert not [attributes for _, attributes in page.tags if "style" in attributes]
    for file in STATIC.iterdir():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text()), file


async def test_without_scripts_the_page_reloads_itself(client: httpx.AsyncClient) -> None:
    text = (await client.get("/")).text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in text


async def test_the_fragment_is_the_part_of_the_page_that_changes(client: httpx.AsyncClient) -> None:
    page, fragment = (await client.get("/")).text, (await client.get("/fragment")).text
    assert fragment.strip() in page
    assert Outline(fragment).tags[0] == ("div", {"id": "fragment", "data-title": "(2!) prod-us · Heliostat"})


async def test_static_files_are_checked_again_but_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/static/page.css")
    assert first.headers["cache-control"] == "no-cache"
    again = await client.get("/static/page.css", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304


async def test_an_empty_cluster_says_what_to_do(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.cluster, backend.logged = replace(cluster(), commit=None, observed_at=None, git_age_seconds=None), []
    page = Outline((await client.get("/")).text)
    assert "No services yet" in page.text
    assert "Nothing has happened yet." in page.text
    assert "Ray has not been seen yet" in page.text


async def test_a_failing_store_does_not_take_the_page_away(
    backend: MemoryBackend, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_: object) -> None:
        raise Stalled("the disk is full")

    monkeypatch.setattr(backend, "events", fail)
    assert (await client.get("/")).status_code == 200


def test_marks_on_the_page_can_be_told_apart_without_colours() -> None:
    """Every bar and key has its role written beside it."""
    view = page_view(cluster(chat()), (), NOW).services[0]
    assert [(share.role, share.start, share.weight) for share in view.shares] == [
        ("stable", 0.0, 90.0),
        ("candidate", 90.0, 10.0),
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (ago(NOW, NOW), "just now"),
        (ago(NOW - timedelta(seconds=12), NOW), "12 s ago"),
        (ago(NOW - timedelta(hours=30), NOW), "1 d ago"),
        (ago(NOW + timedelta(seconds=41), NOW), "in 41 s"),
        (span(timedelta(minutes=61)), "1 h"),
        (count(1234), "1,234"),
        (count(1_250_000), "1.2 M"),
        (percent(10.0), "10%"),
        (percent(33.333), "33.33%"),
        (percent(0.001), "<0.01%"),
        (percent(0.0), "0%"),
        (seconds(None), "-"),
        (seconds(0.0112), "11.2 ms"),
        (seconds(0.9999), "1 s"),
        (seconds(65.2), "65.2 s"),
        (short_commit("feature/x@sha1:0123456789"), "feature/x@01234567"),
        (short_commit("odd"), "odd"),
    ],
)
def test_numbers_read_as_people_write_them(said: str, expected: str) -> None:
    assert said == expected


def test_replicas_on_a_dead_node_that_came_back_do_not_wait_for_a_node() -> None:
    worker = sample_nodes()[1]
    dead = replace(worker, id="d" * 56, is_alive=False)
    seat = replace(sample_seats()[0], node=dead.id)
    assert not places_view(cluster(), (worker, dead), (seat,)).waiting
    assert places_view(cluster(), (worker,), (seat,)).waiting


async def test_nodes_are_boxes_by_zone_with_their_replicas(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.cluster = cluster(chat())
    assert "Nodes" not in Outline((await client.get("/")).text).text
    backend.seen_nodes, backend.seen_seats = sample_nodes(), sample_seats()
    answer = (await client.get("/fragment")).text
    page = Outline(answer)
    zones = [group["aria-label"] for group in page.all("div") if group.get("class") == "zone"]
    assert zones == ["no zone", "zone us-east-1a"]
    seats = [svg["class"] for svg in page.all("svg") if str(svg.get("class")).startswith("seat")]
    assert seats.count("seat hue1 stable running") == 2
    assert {"seat hue1 stable moving", "seat hue1 candidate running", "seat hue1 candidate starting"} <= set(seats)
    assert "1 waiting for a node" in page.text
    assert "chat 3f9a1c2eb771, stable: Chat moves away: its node is being drained" in page.text
    assert "<b>theirs</b>" not in answer
    assert "not Heliostat's" in page.text


async def test_a_node_that_came_back_has_one_box(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    backend.cluster = cluster(chat())
    worker = sample_nodes()[1]
    dead = replace(worker, id="d" * 56, is_alive=False)
    elsewhere = replace(dead, id="e" * 56, ip="10.9.9.9")
    backend.seen_nodes = (worker, dead, elsewhere)
    page = Outline((await client.get("/fragment")).text)
    assert len([box for box in page.all("div") if str(box.get("class")).startswith("node")]) == 2
    assert page.text.count(worker.ip) == 1
    assert page.text.count("dead") == 1


async def test_what_leaves_the_gateway_s_zone_is_told_where_it_has_one(
    backend: MemoryBackend, client: httpx.AsyncClient
) -> None:
    told = "12.5% of the last minute's requests left zone us-east-1a, the gateway's own"
    backend.cluster = cluster(steady("search"))
    assert told not in Outline((await client.get("/fragment")).text).text
    crossing = CrossingStatus(zone="us-east-1a", percent=12.5)
    backend.cluster = cluster(replace(steady("search"), crossing=crossing))
    assert told in Outline((await client.get("/fragment")).text).text
    assert told in service_text(backend.cluster, backend.cluster.services[0], NOW)
    found = (await client.get("/api/v1/services/search")).json()
    assert found["crossing"] == {"zone": "us-east-1a", "percent": 12.5}


async def test_a_large_cluster_is_not_drawn_node_by_node(backend: MemoryBackend, client: httpx.AsyncClient) -> None:
    worker = sample_nodes()[1]
    backend.seen_nodes = tuple(replace(worker, id=f"{number:056}") for number in range(MOST_NODES + 5))
    page = Outline((await client.get("/")).text)
    assert len([box for box in page.all("div") if str(box.get("class")).startswith("node")]) == MOST_NODES
    assert "5 more nodes: heliostat nodes" in page.text
