"""`heliostat plan` on real repositories, as a terminal, a script and a pull request see it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.cli.plan import plan
from reconciler.cli.plan_markdown import MAX_LENGTH, marker
from tests.origin import Origin, git

SPEC = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {name: NAME}
spec:
  application:
    import_path: app:build
    args: {model: small}
    runtime_env: {working_dir: ., env_vars: {KEY: s3cret-one}}
    deployments: [{name: Chat, num_replicas: 2}]
"""


def spec(name: str) -> str:
    return SPEC.replace("NAME", name)


FILES = {"chat/chat.yaml": spec("chat"), "chat/app.py": "one\n", "embed/embed.yaml": spec("embed"), "README.md": "x"}


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    found = Origin(tmp_path / "work")
    found.commit(FILES, "First")
    return found


def run(origin: Origin, *arguments: str) -> Result:
    return CliRunner().invoke(plan, ["--repo", str(origin.folder), *arguments])


def change(origin: Origin, **files: str | None) -> None:
    """Commit with these files (`chat__app_py` is chat/app.py) written anew; None takes one away."""
    named = {name.replace("__", "/").replace("_", "."): text for name, text in files.items()}
    commit(origin, named)


def commit(origin: Origin, files: Mapping[str, str | None]) -> None:
    now = {**FILES, **files}
    origin.commit({path: text for path, text in now.items() if text is not None}, "Second")


def test_the_text_tells_what_merging_does_and_ends_in_the_counts(origin: Origin) -> None:
    change(origin, chat__app_py="two\n", embed__embed_yaml=spec("embed").replace("replicas: 2", "replicas: 3"))
    result = run(origin)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"[0-9a-f]{12} First -> [0-9a-f]{12} Second", lines[0])
    assert re.match(
        r"-/\+ chat  is replaced by a new revision: [0-9a-f]{12} -> [0-9a-f]{12}  chat/chat.yaml:1", lines[2]
    )
    assert "      ~ chat/app.py  # makes a new revision" in lines
    assert "  ~ embed  is scaled, in place  embed/embed.yaml:1" in lines
    assert "      application.deployments[Chat].num_replicas: 2 -> 3  # replicas come or go" in lines
    assert lines[-1] == "Plan: 0 to add, 2 to change, 0 to destroy, 0 on hold"


def test_a_readme_changes_nothing(origin: Origin) -> None:
    commit(origin, {"README.md": "y"})
    result = run(origin, "--detailed-exitcode")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-3:] == [
        "Nothing changes.", "", "Plan: 0 to add, 0 to change, 0 to destroy, 0 on hold",
    ]  # fmt: skip


def test_exit_codes_tell_changes_from_mistakes(origin: Origin) -> None:
    change(origin, chat__app_py="two\n")
    assert run(origin).exit_code == 0
    assert run(origin, "--detailed-exitcode").exit_code == 2
    change(origin, chat__chat_yaml=spec("chat").replace("args", "orgs"))
    for arguments in ((), ("--detailed-exitcode",)):
        result = run(origin, *arguments)
        assert result.exit_code == 1
        assert "chat/chat.yaml:7:5: unknown field" in result.stdout
        assert result.stdout.splitlines()[-1].endswith("1 on hold")


def test_uncommitted_edits_are_not_read(origin: Origin) -> None:
    change(origin, chat__app_py="two\n")
    origin.write({**FILES, "chat/app.py": "three\n", "embed/embed.yaml": "nonsense: ["})
    assert "0 to add, 1 to change" in run(origin).stdout


def test_a_branch_is_compared_with_where_it_left_main(origin: Origin) -> None:
    git(origin.folder, "checkout", "--quiet", "-b", "topic")
    change(origin, chat__app_py="two\n")
    change(origin, chat__app_py="three\n")
    git(origin.folder, "checkout", "--quiet", "main")
    commit(origin, {"embed/embed.yaml": None})
    result = run(origin, "--head", "topic")
    assert "First -> " in result.stdout
    assert result.stdout.splitlines()[-1] == "Plan: 0 to add, 1 to change, 0 to destroy, 0 on hold"
    both = run(origin, "--base", "main", "--head", "topic").stdout
    assert both.splitlines()[-1] == "Plan: 1 to add, 1 to change, 0 to destroy, 0 on hold"


def test_a_linked_work_tree_and_a_bare_clone_are_read_too(origin: Origin, tmp_path: Path) -> None:
    change(origin, chat__app_py="two\n")
    git(origin.folder, "worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"), "HEAD")
    git(tmp_path, "clone", "--quiet", "--bare", str(origin.folder), "bare")
    expected = run(origin, "--base", "HEAD~1").stdout
    for folder in ("linked", "linked/chat", "bare"):
        result = CliRunner().invoke(plan, ["--repo", str(tmp_path / folder), "--base", "HEAD~1"])
        assert result.stdout == expected


def test_a_bare_repository_that_was_committed_is_no_repository_to_run_git_in(origin: Origin, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    change(origin, chat__app_py="two\n")
    inner = origin.folder / "chat" / "inner"
    git(tmp_path, "clone", "--quiet", "--bare", str(origin.folder), str(inner))
    (inner / "config").write_text(f'[core]\nbare = true\nfsmonitor = "touch {trap}"\n[alias]\nx = y\n')
    expected = run(origin, "--base", "HEAD~1").stdout
    result = CliRunner().invoke(plan, ["--repo", str(inner), "--base", "HEAD~1"])
    assert result.stdout == expected
    git(inner, "update-ref", "refs/heads/main", "HEAD~1")
    assert CliRunner().invoke(plan, ["--repo", str(inner), "--base", "HEAD~1"]).stdout == expected
    assert not trap.exists()


def test_only_the_given_folder_is_read(origin: Origin) -> None:
    change(origin, chat__app_py="two\n", embed__embed_yaml=None)
    assert run(origin, "--path", "chat").stdout.splitlines()[-1].startswith("Plan: 0 to add, 1 to change, 0 to destroy")


@pytest.mark.parametrize("arguments", [("--base", "nowhere"), ("--base", "--all"), ("--path", "nowhere")])
def test_what_is_not_there_is_said(origin: Origin, arguments: tuple[str, ...]) -> None:
    change(origin, chat__app_py="two\n")
    result = run(origin, *arguments)
    assert result.exit_code == 1
    assert "nowhere" in result.stderr or "is no commit here" in result.stderr


def test_a_first_commit_has_nothing_to_be_compared_with(origin: Origin) -> None:
    result = run(origin)
    assert result.exit_code == 1
    assert "name one with --base" in result.stderr


def test_a_folder_outside_of_git_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(plan, ["--repo", str(tmp_path)])
    assert result.exit_code == 1
    assert "is in no Git repository" in result.stderr


def test_the_json_is_one_versioned_document(origin: Origin, tmp_path: Path) -> None:
    change(origin, chat__app_py="two\n")
    result = run(origin, "--format", "json", "--out", str(tmp_path / "plan.json"))
    document = json.loads(result.stdout)
    assert (document["kind"], document["version"]) == ("Plan", 1)
    assert document["counts"] == {"add": 0, "change": 1, "destroy": 0, "hold": 0}
    assert document["services"][0]["files"] == [{"path": "chat/app.py", "fate": "changed"}]
    assert (tmp_path / "plan.json").read_text() == result.stdout


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_no_form_shows_a_secret_and_each_is_the_same_twice(origin: Origin, form: str) -> None:
    edited = spec("chat").replace("s3cret-one", "s3cret-two").replace("small", "https://u:s3cret@h/x?token=s3cret")
    change(origin, chat__chat_yaml=edited)
    first = run(origin, "--format", form).stdout
    assert "env_vars.KEY" in first
    assert "https://***@h/x?token=***" in first
    assert "s3cret" not in first
    assert run(origin, "--format", form).stdout == first


def test_a_comment_starts_with_its_marker_and_folds_the_rest(origin: Origin) -> None:
    change(origin, chat__app_py="two\n")
    comment = run(origin, "--format", "markdown", "--title", "prod-us").stdout
    assert comment.startswith("<!-- heliostat-plan: prod-us -->\n")
    assert comment.index("Plan: 0 to add, 1 to change") < comment.index("<details>") < comment.index("chat/app.py")


def test_a_title_cannot_end_the_marker() -> None:
    assert marker("--> <b>x</b>") == "<!-- heliostat-plan: - -b-x-/b- -->"
    assert marker("") == "<!-- heliostat-plan -->"


def test_what_a_stranger_writes_stays_inside_code(origin: Origin) -> None:
    nasty = "```\n</details> @everyone <img src=x> ![x](http://x) | `"
    change(origin, chat__chat_yaml=spec("chat").replace("small", json.dumps(nasty)))
    git(origin.folder, "commit", "--quiet", "--amend", "-m", "`@everyone` <img src=x> ``")
    outside = without_code(run(origin, "--format", "markdown").stdout)
    assert "@everyone" not in outside
    assert "<img" not in outside
    assert outside.count("</details>") == 1


def without_code(comment: str) -> str:
    """Take away what Markdown shows as code: fenced blocks first, then spans."""
    kept, fence = [], ""
    for line in comment.splitlines():
        run_of_ticks = re.match("`{3,}", line)
        if fence:
            fence = "" if line == fence else fence
        elif run_of_ticks:
            fence = run_of_ticks.group()
        else:
            kept.append(line)
    assert not fence
    outside = re.sub(r"<code>[^<>]*</code>", "", "\n".join(kept))
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)


def test_names_with_line_breaks_and_mentions_say_nothing_either(origin: Origin) -> None:
    folder = "x\n\n@everyone\x1b[2J"
    text = spec("odd").replace("model: small", 'model: M, "A\\n@everyone\\e[2J": M').replace("working_dir: ., ", "")
    for number in range(2):
        origin.commit({**FILES, f"{folder}/s.yaml": text.replace(": M", f": m{number}")})
    assert "@everyone" not in without_code(run(origin, "--format", "markdown").stdout)
    plain = run(origin).stdout
    assert "\x1b" not in plain
    assert not any(line.strip().startswith("@everyone") for line in plain.splitlines())


def test_many_changes_fit_in_one_comment_with_what_matters_first(origin: Origin) -> None:
    many = {f"many/s{n:03}/s.yaml": spec(f"s{n:03}").replace("small", "é" * 200) for n in range(90)}
    origin.commit({**FILES, **many}, "Many")
    broken = {path: text.replace("é", "ü") for path, text in many.items()}
    broken["many/s000/s.yaml"] = broken["many/s000/s.yaml"].replace("args", "orgs")
    origin.commit({**FILES, **broken}, "More")
    comment = run(origin, "--format", "markdown").stdout
    assert len(comment.encode()) < MAX_LENGTH
    assert "many/s000/s.yaml:7:5" in comment
    assert "89 to change" in comment
    assert re.search(r"_\d+ more parts are left out", comment)
    assert without_code(comment).count("<details>") == without_code(comment).count("</details>") > 30
