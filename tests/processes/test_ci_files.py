"""The CI files do what they say: their very steps are run, against a repository and a stand-in of the comment API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from reconciler.cli.main import heliostat
from tests.local_http import JSON, Answering, listening
from tests.origin import IDENTITY, Origin, git
from tests.unit.cli.test_plan import without_code

CI = Path(__file__).parents[2] / "deploy" / "ci"
SPEC = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {name: chat}
spec:
  application: {import_path: "app:build", args: {model: small}, runtime_env: {working_dir: .}}
"""
TOKEN = "t0ken-for-tests"
COMMIT = {"sha": "c" * 40, "subject": "Nothing", "committedAt": "2026-11-29T00:00:00Z"}
NOTHING = {"kind": "Plan", "version": 1, "base": COMMIT, "head": COMMIT}


@dataclass(kw_only=True)
class Forge:
    """What both forges have in common: a request with comments, some of them other people's."""

    url: str = ""
    head: str = ""
    comments: dict[int, str] = field(default_factory=dict)
    ours: set[int] = field(default_factory=set)
    user: dict[str, Any] | None = None
    """Whose token it is; None for an app's, which has no user."""
    writes: list[str] = field(default_factory=list)

    def read(self, path: str, query: str) -> tuple[int, Any]:
        if path.endswith(("/pulls/7", "/merge_requests/7")):
            return 200, {"head": {"sha": self.head}, "sha": self.head}
        if path.endswith("/user"):
            return (200, self.user) if self.user else (403, {})
        page = int(query.partition("&page=")[2])
        found = [{"id": number, "body": body, **self.by(number)} for number, body in self.comments.items()]
        return 200, found[(page - 1) * 100 : page * 100]

    def by(self, number: int) -> dict[str, Any]:
        own = self.user or {"login": "github-actions[bot]", "type": "Bot", "id": 2}
        author = own if number in self.ours else {"login": "mallory", "type": "User", "id": 1}
        return {"user": author, "author": author}

    def write(self, method: str, path: str, body: str) -> tuple[int, Any]:
        self.writes.append(method)
        if method == "POST":
            self.ours.add(len(self.comments) + 1)
            self.comments[len(self.comments) + 1] = body
            return 201, {}
        self.comments[int(path.rpartition("/")[2])] = body
        return 200, {}


@pytest.fixture
def forge() -> Iterator[Forge]:
    found = Forge()

    class Handler(Answering):
        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            content = self.body()
            body = json.loads(content)["body"] if content else ""
            tokens = (f"Bearer {TOKEN}", TOKEN)
            if self.headers.get("Authorization", self.headers.get("PRIVATE-TOKEN")) not in tokens:
                status, told = 401, {}
            elif self.command == "GET":
                status, told = found.read(path, query)
            else:
                status, told = found.write(self.command, path, body)
            self.say(status, json.dumps(told).encode(), JSON)

    with listening(Handler) as port:
        found.url = f"http://127.0.0.1:{port}"
        yield found


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """A checkout of a pull request: HEAD merges it into main."""
    found = Origin(tmp_path / "checkout")
    found.commit({"chat.yaml": SPEC, "app.py": "one"}, "First")
    git(found.folder, "checkout", "--quiet", "-b", "topic")
    found.commit({"chat.yaml": SPEC.replace("small", "large"), "app.py": "one"}, "Larger")
    git(found.folder, "checkout", "--quiet", "main")
    git(found.folder, "merge", "--quiet", "--no-ff", "-m", "Merge", "topic")
    return found


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CI / name).read_text())
    return document


def step(workflow: dict[str, Any], job: str, name: str) -> str:
    script: str = next(one["run"] for one in workflow["jobs"][job]["steps"] if one.get("name") == name)
    assert "${{" not in script, "what a stranger may write must never become part of a script"
    return script


def bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step as the runners do."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), **IDENTITY, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def plan_on_github(origin: Origin) -> subprocess.CompletedProcess[str]:
    summary = origin.folder / ".summary"
    script = step(read("github/plan.yml"), "plan", "Plan")
    return bash(script, origin.folder, NUMBER="7", HELIOSTAT_PATH=".", GITHUB_STEP_SUMMARY=str(summary))


def planned(origin: Origin) -> None:
    """Leave what the first workflow leaves, for tests of the second."""
    folder = origin.folder / "plan"
    folder.mkdir()
    (folder / "number").write_text("7\n")
    (folder / "plan.json").write_text(json.dumps(NOTHING))


def comment_on_github(origin: Origin, forge: Forge, head: str = "abc") -> subprocess.CompletedProcess[str]:
    script = step(read("github/comment.yml"), "comment", "Comment")
    environment = {"GITHUB_TOKEN": TOKEN, "HEAD_SHA": head, "GITHUB_API_URL": forge.url, "GITHUB_REPOSITORY": "o/r"}
    return bash(script, origin.folder, **environment)


def test_a_pull_request_gets_one_comment_that_the_next_push_updates(origin: Origin, forge: Forge) -> None:
    forge.head, forge.comments = "abc", {1: "hello"}
    assert plan_on_github(origin).returncode == 0
    done = comment_on_github(origin, forge)
    assert done.returncode == 0, done.stderr
    assert "0 to add, 1 to change" in forge.comments[2]
    assert '"small" -> "large"' in forge.comments[2]
    assert comment_on_github(origin, forge).returncode == 0
    assert forge.writes == ["POST"], "the same plan is not written again"
    git(origin.folder, "reset", "--quiet", "--hard", "HEAD^1")
    git(origin.folder, "commit", "--quiet", "--allow-empty", "-m", "Nothing")
    assert plan_on_github(origin).returncode == 0
    assert comment_on_github(origin, forge).returncode == 0
    assert forge.writes == ["POST", "PATCH"]
    assert forge.comments[1] == "hello"
    assert "Nothing changes." in forge.comments[2]


def test_a_broken_spec_fails_the_check_and_is_told_in_the_comment(origin: Origin, forge: Forge) -> None:
    git(origin.folder, "checkout", "--quiet", "--detach")
    origin.commit({"chat.yaml": SPEC.replace("args", "orgs"), "app.py": "one"}, "Broken")
    forge.head = "abc"
    assert plan_on_github(origin).returncode == 1
    assert bash(step(read("github/plan.yml"), "plan", "Validate"), origin.folder, HELIOSTAT_PATH=".").returncode == 1
    assert comment_on_github(origin, forge).returncode == 0
    assert "chat.yaml:5:" in forge.comments[1]
    assert "chat.yaml:5:" in (origin.folder / ".summary").read_text()


def test_a_plan_of_another_commit_than_the_newest_is_not_put_there(origin: Origin, forge: Forge) -> None:
    forge.head = "newer"
    planned(origin)
    done = comment_on_github(origin, forge)
    assert done.returncode == 1
    assert "newest commit is not abc" in done.stderr
    assert forge.comments == {}


@pytest.mark.parametrize("number", ["$(touch here)", "../1"])
def test_a_number_from_a_stranger_is_a_number_or_nothing(origin: Origin, forge: Forge, number: str) -> None:
    planned(origin)
    (origin.folder / "plan/number").write_text(number)
    assert comment_on_github(origin, forge).returncode == 2
    assert forge.writes == []
    assert not (origin.folder / "here").exists()


@pytest.mark.parametrize(
    "text",
    [
        "buy now",
        "<!-- heliostat-plan -->\n\n@everyone: approved",
        "[]",
        "null",
        "[" * 100_000,
        '{"kind": "Plan", "version": 1}',
        '{"kind": "Plan", "version": 1, "base": 1, "head": []}',
        '{"kind": "Plan", "version": 2, "base": {}, "head": {}}',
    ],
    ids=range(8),
)
def test_a_text_from_a_stranger_that_is_no_plan_is_not_put_there(origin: Origin, forge: Forge, text: str) -> None:
    forge.head = "abc"
    planned(origin)
    (origin.folder / "plan/plan.json").write_text(text)
    done = comment_on_github(origin, forge)
    assert (done.returncode, "is no plan" in done.stderr) == (1, True), done.stderr
    assert forge.writes == []


def test_a_plan_from_a_stranger_says_nothing_but_code(origin: Origin, forge: Forge) -> None:
    """Who sends a pull request may change the workflow, and with it all that the plan says."""
    forge.head = "abc"
    planned(origin)
    file = origin.folder / "plan/plan.json"
    nasty = "x\n\n```\n</code></summary></details> @everyone <img src=x> [y](http://x) ``"
    document = json.loads(file.read_text())
    document["head"]["subject"] = document["base"]["sha"] = nasty
    field = {"path": nasty, "consequence": "revision", "before": nasty, "after": nasty}
    document["services"] = [
        {
            "name": nasty, "action": "roll", "path": nasty, "line": 1, "route": nasty, "revisionAfter": nasty,
            "fields": [field], "files": [{"path": nasty, "fate": "added"}], "warnings": [nasty],
            "holds": [{"reason": "Quarantined", "message": nasty}],
        }
    ]  # fmt: skip
    document["errors"] = [{"path": nasty, "line": 1, "column": 1, "message": nasty}]
    file.write_text(json.dumps(document))
    done = comment_on_github(origin, forge)
    assert done.returncode == 0, done.stderr
    outside = without_code(forge.comments[1])
    assert "everyone" in forge.comments[1]
    for word in ("everyone", "img", "http"):
        assert word not in outside
    assert outside.count("</details>") == 1


@pytest.mark.parametrize("user", [None, {"login": "heliostat", "type": "User", "id": 7}], ids=["app", "user"])
def test_a_comment_of_somebody_else_with_the_same_first_line_is_left_alone(
    origin: Origin, forge: Forge, user: dict[str, Any] | None
) -> None:
    """Who has written it could rewrite the plan later; a token for comments may edit those of others."""
    forge.head, forge.user = "abc", user
    forge.comments = dict.fromkeys(range(1, 150), "chatter") | {120: "<!-- heliostat-plan -->\nfake"}
    planned(origin)
    assert comment_on_github(origin, forge).returncode == 0
    assert forge.writes == ["POST"]
    assert forge.comments[120].endswith("fake")
    (origin.folder / "plan/plan.json").write_text(json.dumps(NOTHING | {"unchanged": 3, "head": COMMIT | {"sha": "d"}}))
    assert comment_on_github(origin, forge).returncode == 0
    assert forge.writes == ["POST", "PATCH"], "its own is found behind a hundred others"


def test_without_a_plan_the_comment_is_skipped(origin: Origin, forge: Forge) -> None:
    done = comment_on_github(origin, forge)
    assert done.returncode == 0
    assert "there is no plan" in done.stdout


def test_a_merge_request_gets_one_note_that_the_next_push_updates(origin: Origin, forge: Forge) -> None:
    jobs = read("gitlab/heliostat.yml")
    environment = {
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": git(origin.folder, "rev-parse", "HEAD^1"),
        "CI_COMMIT_SHA": git(origin.folder, "rev-parse", "HEAD"),
        "CI_MERGE_REQUEST_IID": "7",
        "CI_PROJECT_ID": "12",
        "CI_API_V4_URL": forge.url,
        "HELIOSTAT_GITLAB_TOKEN": TOKEN,
        "HELIOSTAT_PATH": ".",
    }
    forge.user = {"id": 9, "username": "project_12_bot"}
    for _ in range(2):
        for job in ("heliostat-plan", "heliostat-comment"):
            done = bash("\n".join(jobs[job]["script"]), origin.folder, **environment)
            assert done.returncode == 0, done.stderr
        environment["CI_MERGE_REQUEST_DIFF_BASE_SHA"] = environment["CI_COMMIT_SHA"]
    assert forge.writes == ["POST", "PUT"]
    assert "Nothing changes." in forge.comments[1]


def test_what_sees_a_strangers_files_has_no_secret_and_writes_nothing() -> None:
    workflow = read("github/plan.yml")
    assert workflow[True] == "pull_request"
    assert workflow["permissions"] == {"contents": "read"}
    text = (CI / "github/plan.yml").read_text()
    assert "${{ secrets" not in text
    assert "github.token" not in text
    checkout = workflow["jobs"]["plan"]["steps"][0]
    assert checkout["with"]["persist-credentials"] is False


def test_what_may_write_sees_no_file_of_a_stranger() -> None:
    workflow = read("github/comment.yml")
    assert workflow["permissions"] == {"actions": "read", "pull-requests": "write"}
    used = [one["uses"] for one in workflow["jobs"]["comment"]["steps"] if "uses" in one]
    assert not any("checkout" in one for one in used)
    gitlab = read("gitlab/heliostat.yml")
    assert "CI_MERGE_REQUEST_SOURCE_PROJECT_ID == $CI_PROJECT_ID" in gitlab["heliostat-comment"]["rules"][0]["if"]
    assert gitlab["heliostat-comment"]["variables"]["GIT_STRATEGY"] == "none"
    assert "TOKEN" not in json.dumps(gitlab["heliostat-plan"])


def test_a_token_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(NOTHING))
    result = CliRunner().invoke(heliostat, ["comment", str(plan), "--on", "github", "--number", "7"])
    assert result.exit_code == 2
    assert "GITHUB_TOKEN" in result.stderr
