"""Plans over HTTP, and `heliostat plan --server` against them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from reconciler.api.backend import Refused
from reconciler.api.documents import plan_document
from reconciler.api.plans import read_proposal
from reconciler.api.problems import Problem
from reconciler.cli.main import heliostat
from reconciler.cli.replies import read
from reconciler.planner import Folder
from specs.desired import Unread, Unreadable
from specs.planned import Action, PlannedChange, PlannedCommit, PlannedHold, PlannedService
from specs.predicted import Ending, Moment, PredictedHold, PredictedService, Prediction, Resource, Unplaced
from specs.reasons import Reason
from tests.origin import Origin
from tests.unit.api.backends import NOW, MemoryBackend
from tests.unit.api.serving import TOKEN, Serving, serving

COMMIT = "a" * 40
BODY: dict[str, Any] = {"commit": COMMIT}
AUTH = {"Authorization": f"Bearer {TOKEN}"}


def planned() -> PlannedChange:
    second = timedelta(seconds=1)
    chat = PredictedService(
        name="chat",
        ending=Ending.HELD,
        duration=None,
        moments=(Moment(after=second, kind="RolloutStarted", message="b: a new revision"),),
        holds=(PredictedHold(reason=Reason.OUTSIDE_WINDOW, message="closed", after=second),),
        peak={"Chat": 3},
        before={"Chat": 2},
        restarts=("r1", "r2"),
        started={"Chat": 2},
        nodes={"n1": 2},
        zones={"a": 2},
    )
    needs = Unplaced(service="chat", deployment="Chat", count=1, needs={"GPU": 1.0}, after=3 * second)
    prediction = Prediction(
        at=NOW,
        live="0123456789abcdef",
        services=(chat,),
        resources=(Resource(name="memory", now=2.0**30, peak=2.0**31, total=2.0**33),),
        peak=3,
        unplaced=(needs,),
        assumptions=("chat: its gates say yes at once",),
    )
    service = PlannedService(
        name="chat",
        action=Action.ROLL,
        path="chat.yaml",
        line=1,
        route="/chat",
        revision_before="a",
        revision_after="b",
        holds=(PlannedHold(reason=Reason.OUTSIDE_WINDOW, message="closed"),),
    )
    commit = PlannedCommit(sha=COMMIT, subject="One", committed_at=NOW)
    return PlannedChange(base=commit, head=commit, services=(service,), prediction=prediction)


@pytest.fixture
def backend() -> MemoryBackend:
    found = MemoryBackend()
    found.planned = planned()
    return found


@pytest.fixture
def server(backend: MemoryBackend) -> Iterator[Serving]:
    with serving(backend) as running:
        yield running


def post(server: Serving, body: object, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/api/v1/plan", json=body, headers=AUTH | headers, trust_env=False)


def test_anybody_who_may_look_sees_what_is_about_to_be_done(server: Serving, backend: MemoryBackend) -> None:
    answer = httpx.get(f"{server.url}/api/v1/plan", trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["counts"] == {"add": 0, "change": 0, "destroy": 0, "hold": 1}
    assert backend.proposals == [None]


def test_a_document_reads_back_as_the_plan_that_it_was_made_from(server: Serving) -> None:
    document = post(server, BODY).json()
    assert (document["kind"], document["version"]) == ("Plan", 1)
    assert read(PlannedChange, document) == planned()
    assert document == json.loads(json.dumps(plan_document(planned())))


def test_a_proposal_needs_the_token(server: Serving, backend: MemoryBackend) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = httpx.post(f"{server.url}/api/v1/plan", json=BODY, headers=headers, trust_env=False)
        assert answer.status_code == 401
    assert post(server, BODY, Origin="https://evil.example").status_code == 403
    assert backend.proposals == []


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"commit": "main"},
        {"commit": "--upload-pack=x"},
        {**BODY, "unknown": 1},
        {**BODY, "files": ["a"]},
        {**BODY, "files": {"a.yaml": 1}},
        {**BODY, "folders": {"path": ""}},
        {**BODY, "folders": [{"path": "", "keepFolder": False}]},
        {**BODY, "folders": [{"path": "", "keepFolder": "no", "tree": "a" * 40}]},
        {**BODY, "folders": [{"path": "", "keepFolder": False, "tree": "../x"}]},
        {**BODY, "subject": 3},
        {**BODY, "unread": [{"path": "a.yaml", "kind": "link"}]},
        {**BODY, "unread": [{"path": "a.yaml", "kind": "door", "isSpec": True}]},
        {**BODY, "unread": [{"path": "a.yaml", "kind": ["link"], "isSpec": True}]},
    ],
)
def test_what_is_no_proposal_is_refused(server: Serving, backend: MemoryBackend, body: object) -> None:
    answer = post(server, body)
    assert answer.status_code == 400
    assert answer.json()["detail"]
    assert backend.proposals == []


def test_a_body_that_is_too_large_or_no_json_is_refused(server: Serving) -> None:
    url = f"{server.url}/api/v1/plan"
    json_type = {"Content-Type": "application/json"}
    assert httpx.post(url, content=b"x" * 17 * 2**20, headers=AUTH | json_type, trust_env=False).status_code == 413
    assert httpx.post(url, content=b"[" * 9000, headers=AUTH | json_type, trust_env=False).status_code == 400
    assert httpx.post(url, content=b"{}", headers=AUTH, trust_env=False).status_code == 415


def test_what_cannot_be_planned_now_is_a_conflict(server: Serving, backend: MemoryBackend) -> None:
    backend.planned = Refused("the repository has no such commit")
    answer = post(server, BODY)
    assert answer.status_code == 409
    assert "no such commit" in answer.json()["detail"]


SPEC = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {name: chat}
spec: {application: {import_path: "app:build", runtime_env: {working_dir: .}}}
"""


def test_the_command_sends_the_commit_as_it_is_here_and_prints_the_answer(
    server: Serving, backend: MemoryBackend, tmp_path: Path
) -> None:
    origin = Origin(tmp_path / "work")
    origin.write({"chat/chat.yaml": SPEC, "chat/app.py": "x", "other.yaml": "a: 1\n"})
    (origin.folder / "odd.yaml").symlink_to("chat/chat.yaml")
    sha = origin.commit(message="Head")
    origin.write({"chat/chat.yaml": "not committed"})
    asked = ["plan", "--server", server.url, "--token", TOKEN, "--repo", str(origin.folder)]
    result = CliRunner().invoke(heliostat, [*asked, "--detailed-exitcode"])
    assert result.exit_code == 2, result.output
    assert "NOT everything fits now" in result.stdout
    assert "GiB memory: 1 now, 2 at the peak, of 8" in result.stdout
    assert "no room: chat/Chat: 1 replica(s) find no node with 1 GPU after 3s" in result.stdout
    assert "waits from +1s until somebody acts, OutsideWindow: closed" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("1 on hold")
    (proposal,) = backend.proposals
    assert proposal is not None
    assert (proposal.commit, proposal.subject) == (sha, "Head")
    assert proposal.files is not None
    assert proposal.files["chat/chat.yaml"] == SPEC.encode()
    assert [(folder.path, folder.keep_folder) for folder in proposal.folders] == [("chat", False)]
    assert isinstance(proposal.folders[0], Folder)
    assert proposal.unread == (Unread(path="odd.yaml", kind=Unreadable.LINK, is_spec=True),)
    comment = CliRunner().invoke(heliostat, [*asked, "--format", "markdown"]).stdout
    assert "chat, step by step" in comment
    assert "its gates say yes at once" in comment


def test_a_file_that_is_no_text_reaches_the_daemon_as_it_is(
    server: Serving, backend: MemoryBackend, tmp_path: Path
) -> None:
    """Mended on the way, its mistake would not be found, and the plan would promise what the merge does not do."""
    origin, latin = Origin(tmp_path / "work"), SPEC.replace("kind: Service", "kind: Service # café").encode("latin-1")
    origin.commit({"chat/chat.yaml": latin, "chat/app.py": "x"})
    asked = ["plan", "--server", server.url, "--token", TOKEN, "--repo", str(origin.folder)]
    assert CliRunner().invoke(heliostat, asked).exit_code == 0
    (proposal,) = backend.proposals
    assert proposal is not None
    assert proposal.files == {"chat/chat.yaml": latin}


def test_halves_of_surrogate_pairs_are_no_crash() -> None:
    body = json.dumps({"commit": "a" * 40, "files": {"a.yaml": "x\ud800y", "b.yaml": "\udce9"}}).encode()
    assert read_proposal(body).files == {"a.yaml": b"x?y", "b.yaml": b"\xe9"}
    for odd in ({"files": {"\ud800.yaml": ""}}, {"subject": "\udce9"}, {"files": {"a.yaml": 1}}):
        with pytest.raises(Problem) as refused:
            read_proposal(json.dumps({"commit": "a" * 40, **odd}).encode())
        assert refused.value.status_code == 400


def test_a_base_is_the_daemons_own(server: Serving, tmp_path: Path) -> None:
    result = CliRunner().invoke(heliostat, ["plan", "--server", server.url, "--base", "x"])
    assert result.exit_code == 2
    assert "leave out --base" in result.stderr


def test_a_plan_is_applied_while_it_holds_and_released_again(
    server: Serving, backend: MemoryBackend, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    document = plan_document(planned())
    file.write_text(json.dumps(document))
    asked = ["--server", server.url, "--token", TOKEN]
    result = CliRunner().invoke(heliostat, ["apply", str(file), *asked])
    assert result.exit_code == 0, result.output
    assert backend.pinned == (COMMIT, COMMIT)
    assert "until the branch contains it" in result.stdout
    assert CliRunner().invoke(heliostat, ["apply", "--release", *asked]).exit_code == 0
    assert backend.pinned is None
    again = CliRunner().invoke(heliostat, ["apply", "--release", *asked])
    assert (again.exit_code, "no plan was applied" in again.stderr) == (1, True)
    document["prediction"]["live"] = "f" * 16
    file.write_text(json.dumps(document))
    stale = CliRunner().invoke(heliostat, ["apply", str(file), *asked])
    assert (stale.exit_code, "stale" in stale.stderr) == (1, True)


def test_only_a_sound_plan_of_a_live_state_is_applied(server: Serving, backend: MemoryBackend, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    whole = plan_document(planned())
    wrong = [
        "[]",
        "{",
        json.dumps(whole | {"version": 2}),
        json.dumps({k: v for k, v in whole.items() if k != "prediction"}),
    ]
    wrong.append(json.dumps(whole | {"errors": [{"path": "a", "line": 1, "column": 1, "message": "no"}]}))
    blind = whole["prediction"] | {"isComplete": False}
    wrong.append(json.dumps(whole | {"prediction": blind}))
    for text in wrong:
        file.write_text(text)
        result = CliRunner().invoke(heliostat, ["apply", str(file), "--server", server.url, "--token", TOKEN])
        assert result.exit_code == 1, text
    assert backend.pinned is None
    assert httpx.post(f"{server.url}/api/v1/apply", json={}, trust_env=False).status_code == 401
    assert httpx.post(f"{server.url}/api/v1/release", json={}, trust_env=False).status_code == 401
    for body in ({"base": COMMIT, "commit": "x", "live": "a"}, {"base": COMMIT, "commit": COMMIT, "live": 1}):
        answer = httpx.post(f"{server.url}/api/v1/apply", json=body, headers=AUTH, trust_env=False)
        assert answer.status_code == 400
