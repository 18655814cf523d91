"""The verbs against the real API on a real uvicorn, with a Backend in memory."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.adapters import state_folder
from reconciler.cli.main import heliostat
from specs.commands import Command, Verb
from tests.unit.api.backends import (
    MemoryBackend,
    chat,
    cluster,
    sample_events,
    sample_history,
    sample_nodes,
    sample_seats,
    search,
    steady,
    troubled,
)
from tests.unit.api.serving import TOKEN, Serving, serving

Runs = Callable[..., Result]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[MemoryBackend, Serving]]:
    """One server for all: starting and stopping it takes longer than most tests."""
    backend = MemoryBackend()
    with serving(backend) as running:
        yield backend, running


@pytest.fixture
def server(served: tuple[MemoryBackend, Serving]) -> Serving:
    return served[1]


@pytest.fixture
def backend(served: tuple[MemoryBackend, Serving]) -> MemoryBackend:
    backend = served[0]
    backend.cluster = cluster(chat(), steady("rerank"), search())
    backend.logged = list(sample_events())
    backend.entries = sample_history()
    backend.seen_nodes = sample_nodes()
    backend.seen_seats = sample_seats()
    backend.commands.clear()
    backend.refusals.clear()
    return backend


@pytest.fixture
def run(server: Serving, backend: MemoryBackend, tmp_path: Path) -> Runs:
    environ = {
        "HELIOSTAT_SERVER": server.url,
        "HELIOSTAT_TOKEN": TOKEN,
        "XDG_STATE_HOME": str(tmp_path),
        "HELIOSTAT_STATE": "",
        "TZ": "UTC",
    }

    def invoke(*arguments: str, **changes: str | None) -> Result:
        return CliRunner().invoke(heliostat, arguments, env={**environ, **changes})

    return invoke


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_status_shows_every_service_and_why_it_stands_where_it_stands(run: Runs) -> None:
    result = run("status")
    assert result.exit_code == 0
    told = lines(result.stdout)
    assert told[0].startswith("prod-us · main@4f2c9d1e · Ray seen")
    at = told.index("SERVICE HEALTH REVISIONS READY REASON")
    assert told[at + 1 :] == [
        "chat Paused 3f9a1c2 90% b7710de 10% 5/4 Pausing",
        "pausing at 10% until 10:00:00 (41 s left)",
        "rerank Healthy c0ffee1 100% 3/3 Steady",
        "search Healthy 77c01d9 100% 3/3 Quarantined",
        "91aa0c3d55fe is quarantined; 77c01d9e2f10 keeps all requests",
    ]


def test_no_line_is_wider_than_80_columns_and_nothing_is_coloured_in_a_pipe(run: Runs) -> None:
    for arguments in (["status"], ["status", "chat"], ["history", "search"], ["nodes"]):
        text = run(*arguments).stdout
        assert "\x1b" not in text
        # Messages and lists of replicas are cut on a terminal only: a pipe gets all of them.
        open_ended = ("ModuleNotFound", "chat 3f9a1c2")
        wide = [line for line in text.splitlines() if len(line) > 80 and not any(part in line for part in open_ended)]
        assert wide == [], arguments


def test_status_of_one_service_shows_step_traffic_and_cells(run: Runs) -> None:
    told = lines(run("status", "chat").stdout)
    assert "analysis inconclusive" in told
    assert "p99 is 1.2 s (1,500 more requests needed)" in told
    for line in (
        "chat /chat Paused · OutOfSync",
        "Pausing: pausing at 10% until 10:00:00 (41 s left)",
        "replicas 5 ready of 4, 5 live, at most 5",
        "3f9a1c2eb771 stable 90% 1.2 M 0 3 11 ms 64 ms",
        "b7710de40a12 candidate 10% 1,200 2 0 12.3 ms 1.21 s",
        "chat.b7710de40a12.us-east-1a.-.1 DEPLOYING 10% Chat 1/1, Embed 0/1",
    ):
        assert line in told, line
    assert any(line.startswith("step 2 of 5: pause 60s, ends") for line in told)


def test_a_quarantine_is_shown_with_rays_whole_message_and_the_way_out(run: Runs) -> None:
    text = run("status", "search").stdout
    assert "quarantined 91aa0c3d55fe: BuildFailed" in text
    assert "  ModuleNotFoundError: No module named 'search.index' & <b>friends</b>" in text
    assert "heliostat retry search" in text


def test_what_is_wrong_with_the_view_comes_before_the_services(backend: MemoryBackend, run: Runs) -> None:
    backend.cluster = troubled()
    text = run("status").stdout
    assert text.index("unreachable since 74 s") < text.index("services/rerank.yaml:14:7") < text.index("SERVICE")


def test_control_characters_of_messages_do_not_reach_the_terminal(backend: MemoryBackend, run: Runs) -> None:
    backend.cluster = cluster(replace(chat(), message="\x1b]0;evil\x07 \x1b[2J\u202egone"))
    for arguments in (["status"], ["status", "chat"]):
        text = run(*arguments).stdout
        assert not {"\x1b", "\x07", "\u202e"} & set(text)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["status"], "services"),
        (["status", "chat"], "name"),
        (["history", "search"], "history"),
        (["events"], "events"),
        (["nodes"], "nodes"),
        (["pause", "chat"], "event"),
        (["wait", "rerank", "--for", "Healthy"], "health"),
    ],
)
def test_json_output_is_one_document_and_nothing_else(run: Runs, arguments: list[str], key: str) -> None:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0
    assert key in json.loads(result.stdout)


def test_history_and_nodes_and_events_read_as_tables(run: Runs) -> None:
    history = lines(run("history", "search").stdout)
    assert history[0] == "ENDED REVISION OUTCOME TOOK MESSAGE"
    assert "91aa0c3d55fe rolled-back 2 min ModuleNotFoundError" in history[1]
    nodes = lines(run("nodes").stdout)
    assert nodes[1:] == [
        "10.0.0.10 head - - 0 0 ffffffffffff -",
        "10.0.0.11 alive us-east-1a spot 8 1 aaaaaaaaaaaa chat 3f9a1c2 x2, <b>theirs</b>",
        "10.0.0.12 draining us-east-1a spot 8 1 bbbbbbbbbbbb chat 3f9a1c2 leaving, chat b7710de",
        "waiting for a node: chat b7710de starting",
    ]
    events = lines(run("events", "chat").stdout)
    assert len(events) == 3
    assert events[-1].endswith("chat Paused looking at the latency first (by ann@example.com)")
    assert run("history", "rerank").stdout == "no rollout of rerank has ended yet\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["promote", "chat"], Command(verb=Verb.PROMOTE, service="chat")),
        (["promote", "chat", "--full"], Command(verb=Verb.PROMOTE, service="chat", full=True)),
        (["pause", "chat", "-m", "lunch"], Command(verb=Verb.PAUSE, service="chat", why="lunch")),
        (["resume", "chat"], Command(verb=Verb.RESUME, service="chat")),
        (["abort", "chat"], Command(verb=Verb.ABORT, service="chat")),
        (["retry", "search"], Command(verb=Verb.RETRY, service="search")),
        (["rollback", "chat"], Command(verb=Verb.ROLLBACK, service="chat")),
        (["rollback", "chat", "--to", "3f9a"], Command(verb=Verb.ROLLBACK, service="chat", to="3f9a")),
    ],
)
def test_acting_verbs_reach_the_daemon_with_who_and_why(
    backend: MemoryBackend, run: Runs, arguments: list[str], expected: Command
) -> None:
    result = run(*arguments, "--by", "ann")
    assert (result.exit_code, result.stderr.startswith("follow it with")) == (0, True)
    assert "(event 6)" in result.stdout
    assert backend.commands == [replace(expected, by="ann")]


def test_who_acts_is_the_user_by_default(backend: MemoryBackend, run: Runs) -> None:
    run("pause", "chat")
    assert backend.commands[0].by.endswith(socket.gethostname())


def test_a_refusal_is_told_with_its_reason_and_exit_code_1(backend: MemoryBackend, run: Runs) -> None:
    backend.refusals[Verb.PROMOTE] = "chat has no rollout to promote"
    result = run("promote", "chat")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: chat has no rollout to promote\n"


@pytest.mark.parametrize("arguments", [["status", "nobody"], ["history", "nobody"], ["pause", "nobody"]])
def test_an_unknown_service_is_exit_code_1(run: Runs, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert "there is no service 'nobody'" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["pause"],
        ["wait", "chat"],
        ["wait", "chat", "--for", "Happy"],
        ["wait", "chat", "--for", "Healthy", "--timeout", "soon"],
        ["status", "--watch", "-o", "json"],
        ["status", "--server", "ftp://x"],
        ["run"],
        ["run", "--repo", "x", "--listen", "nowhere"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Runs, arguments: list[str]) -> None:
    assert run(*arguments, HELIOSTAT_REPO=None).exit_code == 2


@pytest.mark.parametrize("verb", [["status"], ["events"], ["events", "-f"], ["nodes"], ["pause", "chat"]])
def test_a_daemon_that_does_not_run_is_told_with_what_to_do(run: Runs, verb: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    result = run(*verb, "--server", f"127.0.0.1:{port}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"no Heliostat daemon answers at http://127.0.0.1:{port}" in result.stderr
    assert "heliostat run" in result.stderr


def test_the_token_of_a_daemon_on_this_machine_is_found(
    backend: MemoryBackend, server: Serving, run: Runs, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    state_folder.prepare(folder)
    state_folder.write_private(folder / "token", TOKEN)
    missing = run("pause", "chat", HELIOSTAT_TOKEN=None)
    assert missing.exit_code == 1
    assert "no token for" in missing.stderr
    state_folder.announce(folder, server.url, tmp_path / "heliostat")
    assert run("pause", "chat", HELIOSTAT_TOKEN=None).exit_code == 0
    assert len(backend.commands) == 1


def test_a_wrong_token_is_told_without_being_shown(run: Runs) -> None:
    result = run("pause", "chat", "--token", "wrong-token-wrong-token")
    assert result.exit_code == 1
    assert "not the daemon's token" in result.stderr
    assert "wrong-token" not in result.output


@pytest.mark.parametrize(
    ("service", "goal"), [("rerank", "Healthy"), ("rerank", "synced"), ("chat", "Paused"), ("search", "Quarantined")]
)
def test_wait_returns_when_the_goal_is_reached(run: Runs, service: str, goal: str) -> None:
    result = run("wait", service, "--for", goal, "--timeout", "5s")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{service} is {goal.capitalize()}")


def test_wait_gives_up_with_exit_code_3_and_tells_what_it_saw_once(run: Runs) -> None:
    result = run("wait", "chat", "--for", "Synced", "--timeout", "700ms")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.count("pausing at 10%") == 1
    assert "chat was not Synced within 700ms" in result.stderr


def test_wait_waits_for_a_service_that_is_not_there_yet(run: Runs) -> None:
    result = run("wait", "later", "--for", "Healthy", "--timeout", "100ms")
    assert result.exit_code == 3
    assert "there is no service 'later'" in result.stderr


def test_wait_for_a_revision_does_not_take_an_older_one_for_it(run: Runs) -> None:
    assert run("wait", "rerank", "--for", "Synced", "--revision", "c0ffee", "--timeout", "5s").exit_code == 0
    assert run("wait", "rerank", "--for", "Synced", "--revision", "beef", "--timeout", "100ms").exit_code == 3
    assert run("wait", "search", "--for", "Quarantined", "--revision", "91aa", "--timeout", "5s").exit_code == 0


@pytest.mark.parametrize("name", ["a b", "ü", "?x=1", "#x", "%2e", "x;y"])
def test_odd_names_arrive_as_they_were_written(run: Runs, name: str) -> None:
    result = run("pause", "--", name)
    assert (result.exit_code, result.stderr) == (1, f"Error: there is no service {name!r}\n")


@pytest.mark.parametrize("name", [".", "..", "a/b", "../chat", "chat/../chat"])
def test_names_cannot_reach_other_paths(backend: MemoryBackend, run: Runs, name: str) -> None:
    assert run("pause", "--", name).exit_code == 1
    assert backend.commands == []
