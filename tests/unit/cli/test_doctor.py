"""`heliostat doctor` against a Ray dashboard of a few lines, a real repository and this very machine."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reconciler.cli.main import heliostat
from tests.local_http import JSON, Answering, listening
from tests.unit.api.backends import MemoryBackend, cluster, troubled
from tests.unit.api.serving import serving

Runs = Callable[..., Result]


class Dashboard(Answering):
    """Answers what is in `answers`."""

    answers: dict[str, Any]
    date: str | None = None

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        answer = self.answers.get(path)
        status, body = (404, {}) if answer is None else (200, answer) if not isinstance(answer, int) else (answer, {})
        self.say(status, json.dumps(body).encode(), JSON)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)


def good_cluster() -> dict[str, Any]:
    def node(number: int, zone: str) -> dict[str, Any]:
        return {
            "node_id": f"{number:056x}",
            "node_ip": f"10.0.0.{number}",
            "is_head_node": number == 1,
            "state": "ALIVE",
            "labels": {"ray.io/availability-zone": zone},
            "resources_total": {"CPU": 4.0},
        }

    nodes = [node(1, "a"), node(2, "a"), node(3, "b")]
    return {
        "/api/version": {"version": "4", "ray_version": "2.60.0", "ray_commit": "x"},
        "/api/serve/applications/": {
            "controller_info": {"node_id": "1"},
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0", "port": 8000},
            "applications": {},
            "target_groups": [],
        },
        "/api/v0/nodes": {
            "result": True,
            "msg": "",
            "data": {"result": {"total": 3, "num_after_truncation": 3, "result": nodes, "partial_failure_warning": ""}},
        },
        "/nodes": {"result": True, "data": {"summary": []}},
    }


@pytest.fixture
def handler() -> type[Dashboard]:
    return type("Handler", (Dashboard,), {"answers": good_cluster()})


@pytest.fixture
def ray(handler: type[Dashboard]) -> Iterator[str]:
    with listening(handler) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "specs"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(folder)]
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    return folder


@pytest.fixture
def doctor(ray: str, repository: Path, tmp_path: Path) -> Runs:
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    state = tmp_path / "state"
    given = {"--ray": ray, "--repo": str(repository), "--state": str(state), "--listen": listen}

    def run(*arguments: str, **changes: str) -> Result:
        options = {**given, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
        flat = [part for option in options.items() for part in option]
        return CliRunner().invoke(heliostat, ["doctor", *flat, *arguments], env={"COLUMNS": "80"})

    return run


def marks(result: Result) -> dict[str, str]:
    return {finding["check"]: finding["mark"] for finding in json.loads(result.stdout)["findings"]}


def test_a_good_cluster_and_machine_are_fine(doctor: Runs) -> None:
    result = doctor("-o", "json")
    assert result.exit_code == 0, result.output
    found = marks(result)
    assert {check for check, mark in found.items() if mark == "ok"} == {
        "ray",
        "clock",
        "serve",
        "nodes",
        "zones",
        "git",
        "repository",
        "disk",
        "permissions",
        "haproxy",
    }
    assert found["daemon"] == "skipped"
    assert found["direct ingress"] == "skipped"


def test_the_table_says_how_to_mend_each_finding(doctor: Runs, handler: type[Dashboard]) -> None:
    del handler.answers["/api/v0/nodes"]["data"]["result"]["result"][2]
    text = doctor().stdout
    assert "warn  zones           only a\n" in text
    assert "-> label nodes with ray.io/availability-zone" in text


def test_a_zone_of_the_gateway_that_no_node_is_in_is_found(doctor: Runs) -> None:
    assert "warn  zones           no node is in c, the gateway's own zone; there are a, b\n" in doctor(zone="c").stdout
    assert marks(doctor("-o", "json", zone="b"))["zones"] == "ok"


def test_without_ray_it_fails_once_and_checks_the_rest(doctor: Runs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    result = doctor("-o", "json", ray=nowhere)
    assert result.exit_code == 1
    found = marks(result)
    assert found["ray"] == "failed"
    assert "serve" not in found
    assert found["repository"] == "ok"


@pytest.mark.parametrize(
    ("path", "answer", "check", "mark"),
    [
        ("/api/version", 401, "ray", "failed"),
        ("/api/version", {"ray_version": "2.61.0"}, "ray", "warning"),
        ("/api/version", {"ray_version": "2.50.0"}, "ray version", "failed"),
        ("/api/serve/applications/", 500, "serve", "failed"),
        ("/api/v0/nodes", 500, "nodes", "failed"),
    ],
)
def test_what_is_wrong_with_the_cluster_is_found(
    doctor: Runs, handler: type[Dashboard], *, path: str, answer: object, check: str, mark: str
) -> None:
    handler.answers[path] = answer
    result = doctor("-o", "json")
    assert marks(result)[check] == mark
    assert result.exit_code == (1 if mark == "failed" else 0)


def test_clocks_that_are_apart_are_found(doctor: Runs, handler: type[Dashboard]) -> None:
    handler.date = "Mon, 23 Nov 2020 10:00:00 GMT"
    assert marks(doctor("-o", "json"))["clock"] == "warning"


def test_a_repository_or_branch_that_is_not_there_is_found(doctor: Runs, tmp_path: Path) -> None:
    for changes in ({"branch": "nowhere"}, {"repo": str(tmp_path / "nowhere")}, {"repo": "ext::sh -c true"}):
        result = doctor("-o", "json", **changes)
        assert (marks(result)["repository"], result.exit_code) == ("failed", 1), changes


def test_a_state_that_others_can_read_is_found(doctor: Runs, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state").chmod(0o755)
    assert marks(doctor("-o", "json"))["permissions"] == "warning"


def test_a_running_daemon_is_asked_for_its_problems(doctor: Runs) -> None:
    backend = MemoryBackend(cluster())
    with serving(backend) as daemon:
        listen = daemon.url.removeprefix("http://")
        assert marks(doctor("-o", "json", listen=listen))["daemon"] == "ok"
        backend.cluster = troubled()
        assert marks(doctor("-o", "json", listen=listen))["daemon"] == "failed"


def test_a_stranger_on_the_daemons_port_is_found(doctor: Runs, ray: str) -> None:
    assert marks(doctor("-o", "json", listen=ray.removeprefix("http://")))["daemon"] == "failed"
