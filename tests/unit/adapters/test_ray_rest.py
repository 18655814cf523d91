"""The client of Ray's dashboard: what it sends, and how it says what went wrong."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from reconciler.adapters.ray_rest import RayRest
from reconciler.errors import PortError, Retry, Stalled

URL = "http://ray.test:8265"


def rest(answer: httpx.Response | Exception, *, token: str | None = None, seen: list[httpx.Request]) -> RayRest:
    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return RayRest(URL + "/", token=token, transport=httpx.MockTransport(handle))


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (httpx.Response(401, text="no"), Stalled, "HELIOSTAT_RAY_TOKEN"),
        (httpx.Response(403, text="no"), Stalled, "HELIOSTAT_RAY_TOKEN"),
        (httpx.Response(501, text="no"), Stalled, "ray\\[serve\\]"),
        (httpx.Response(503, text="Traceback\n  line\nGCS is down"), Retry, "GCS is down"),
        (httpx.Response(500), Retry, "no explanation"),
        (httpx.ConnectError("refused"), Retry, "cannot be reached: refused"),
        (httpx.ReadTimeout(""), Retry, "in time"),
        (httpx.RemoteProtocolError(""), Retry, "RemoteProtocolError"),
    ],
)
async def test_trouble_is_told_in_the_words_of_the_ports(
    answer: httpx.Response | Exception, error: type[PortError], words: str
) -> None:
    async with rest(answer, seen=[]) as client:
        with pytest.raises(error, match=words) as raised:
            await client.get("/x")
    assert isinstance(raised.value, Stalled) or URL in raised.value.reason


async def test_an_answer_that_is_not_json_is_worth_another_try() -> None:
    async with rest(httpx.Response(200, text="<html>"), seen=[]) as client:
        with pytest.raises(Retry, match="not JSON"):
            (await client.get("/x")).json()


async def test_the_environments_proxies_are_for_the_internet_and_not_for_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    answered = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()
        answered.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with RayRest(f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/x")).json() == {}
    assert answered.is_set()


async def test_nothing_in_a_request_looks_like_a_browser_and_the_token_is_sent() -> None:
    seen: list[httpx.Request] = []
    async with rest(httpx.Response(200, json={}), token="sesame", seen=seen) as client:
        await client.send("PUT", "/x", body={"a": 1})
    headers = seen[0].headers
    assert headers["authorization"] == "Bearer sesame"
    assert not headers["user-agent"].startswith("Mozilla")
    assert not {"origin", "referer", "sec-fetch-site", "sec-fetch-mode", "cookie"} & set(headers)
    assert all(value is not None for value in seen[0].extensions["timeout"].values())


async def test_bodies_are_neither_logged_nor_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with rest(httpx.Response(200, json={"env_vars": {"KEY": "s3cret"}}), seen=[]) as client:
        answer = await client.send("PUT", "/x", body={"env_vars": {"KEY": "s3cret"}})
    assert "s3cret" not in caplog.text + repr(answer)
