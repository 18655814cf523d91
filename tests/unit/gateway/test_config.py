"""HAProxy's configuration as text."""

from __future__ import annotations

from dataclasses import replace

from reconciler.gateway.config import Content, Process, render_config, render_lanes, render_routes, version
from reconciler.gateway.rows import Row, Share

PROCESS = Process(admin="admin.1.sock", address="127.0.0.1:8080", lanes=3, threads=1, maxconn=1000, is_direct=True)
ROW = Row(service="chat", route="/chat", shares=(Share(threshold=10000, lane="lane1"),))


def test_the_same_input_gives_the_same_bytes() -> None:
    content = Content(rows=(ROW,), prefixes={"lane1": "/_/a"}, servers={"lane1": ("one_1 10.0.0.1:1",)})
    assert render_config(PROCESS, content) == render_config(PROCESS, content)


def test_no_service_and_no_cell_is_written_into_the_rules() -> None:
    full = render_config(PROCESS, Content(rows=(ROW,), prefixes={"lane1": "/_/chat.cell"}))
    assert full == render_config(PROCESS, Content())


def test_servers_that_were_up_are_there_from_the_first_request() -> None:
    config = render_config(PROCESS, Content(servers={"lane1": ("one_1 10.0.0.1:1",)}))
    _, lane1 = config.split("backend lane1 from lanes\n")
    assert lane1.startswith("    server one_1 10.0.0.1:1 check ")
    assert config.count("    server ") == 1


def test_maps_hold_every_lane_and_every_row() -> None:
    other = replace(ROW, service="root", route="/")
    assert render_routes([ROW, other]) == f"/ {other}\n/chat/ {ROW}\n"
    assert render_lanes(3, {"lane1": "/_/a"}) == "lane0 -\nlane1 /_/a\nlane2 -\n"


def test_the_version_changes_with_what_needs_a_new_process() -> None:
    same = [replace(PROCESS, admin="admin.2.sock"), replace(PROCESS, lanes=9), replace(PROCESS, hard_stop_seconds=9)]
    assert {version(process) for process in same} == {version(PROCESS)}
    others = [
        replace(PROCESS, address="127.0.0.1:8081"),
        replace(PROCESS, threads=2),
        replace(PROCESS, is_direct=False),
        replace(PROCESS, tls_pem="/etc/tls.pem"),
        replace(PROCESS, tls_pem="/etc/tls.pem", tls_digest="renewed"),
        replace(PROCESS, maxconn=5),
        replace(PROCESS, zone="a"),
        replace(PROCESS, zone="b"),
    ]
    assert len({version(process) for process in [PROCESS, *others]}) == 9


def test_a_gateway_without_a_zone_pays_for_no_preference() -> None:
    assert "table load" not in render_config(PROCESS, Content())
    assert render_config(replace(PROCESS, zone="a"), Content()).count("table load") == 1


def test_only_direct_ingress_is_asked_for_its_routes() -> None:
    assert "uri /-/routes" in render_config(PROCESS, Content())
    assert "uri /-/healthz" in render_config(replace(PROCESS, is_direct=False), Content())


def test_tls_brings_http_2_and_says_https() -> None:
    config = render_config(replace(PROCESS, tls_pem="/etc/tls.pem"), Content())
    assert "bind 127.0.0.1:8080 ssl crt /etc/tls.pem alpn h2,http/1.1" in config
    assert "set-header X-Forwarded-Proto https" in config


def test_a_certificate_s_path_is_one_word_whatever_is_in_it() -> None:
    config = render_config(replace(PROCESS, tls_pem="/etc/our certificates/#1.pem"), Content())
    assert "bind 127.0.0.1:8080 ssl crt '/etc/our certificates/#1.pem' alpn h2,http/1.1" in config
