"""Reading what HAProxy says of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reconciler.gateway.admin import AdminError, AdminSocket, Counts, parse_info, parse_map, parse_stat, parse_table

STAT = """\
# pxname,svname,scur,stot,status,check_status,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,\
cli_abrt,srv_abrt,addr,
lane0,one_1,2,9,UP,L7OK,0,7,0,0,1,1,0,10.0.0.1:1,
lane0,two_2,0,0,UP 1/2,* L7STS,0,0,0,0,0,0,0,10.0.0.1:2,
lane0,three_3,0,0,UP 1/2,INI,0,0,0,0,0,0,0,10.0.0.1:3,
lane0,four_4,0,0,DOWN,* L7RSP,0,0,0,0,0,0,0,10.0.0.1:4,
lane0,five_5,1,0,DRAIN,L7OK,0,0,0,0,0,0,0,10.0.0.1:5,
lane0,BACKEND,3,9,UP,,0,7,0,0,1,1,2,,
"""


def test_a_lane_s_statistics() -> None:
    lane = parse_stat(STAT)
    assert lane.in_flight == 3
    assert lane.counts == Counts(requests=9, aborted=1, broken=2, codes=(0, 7, 0, 0, 1))
    assert {server.name: server.is_up for server in lane.servers} == {
        "one_1": True,
        "two_2": True,
        "three_3": False,
        "four_4": False,
        "five_5": False,
    }


def test_a_lane_that_is_not_there_is_an_error() -> None:
    with pytest.raises(AdminError, match="no such lane"):
        parse_stat("Can't find proxy lane9.\n")


def test_maps_tables_and_info() -> None:
    assert parse_map("0x1 /chat/ 1|chat|/chat\n0x2 / 0|root|/\n\n") == {"/chat/": "1|chat|/chat", "/": "0|root|/"}
    table = "# table: unrouted, type: string, size:10000, used:1\n0x7: key=chat use=0 exp=0 shard=0 gpc0=3\n"
    assert parse_table(table) == {"chat": 3}
    assert parse_info("Name: HAProxy\nPid: 7\n\n") == {"Name": "HAProxy", "Pid": "7"}


async def test_answers_are_told_apart_whatever_they_hold(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"quit\n")).decode().split("\n")
        assert asked == ["prompt", "show a", "show b", "quit", ""]
        writer.write(b"\n> one\n\nmore > less\n\n> \n> ")
        writer.close()

    path = tmp_path / "admin.sock"
    async with await asyncio.start_unix_server(serve, path):
        assert await AdminSocket(path=path).ask(["show a", "show b"]) == ("one\n\nmore > less\n", "")
        with pytest.raises(AdminError, match="refused `show a`: one"):
            await AdminSocket(path=path).tell(["show a", "show b"])


async def test_a_silent_or_missing_haproxy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match=r"does not answer on gone\.sock"):
        await AdminSocket(path=tmp_path / "gone.sock").ask(["show info"])

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(listen, tmp_path / "mute.sock"):
        with pytest.raises(AdminError, match=r"does not answer on mute\.sock: TimeoutError"):
            await AdminSocket(path=tmp_path / "mute.sock", timeout=0.05).ask(["show info"])
