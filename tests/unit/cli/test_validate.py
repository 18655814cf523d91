"""`heliostat validate` and `heliostat schema`, as a terminal and a script see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.cli.schema import schema
from reconciler.cli.validate import validate

GOOD = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {name: chat}
spec:
  application: {import_path: "chat:app", runtime_env: {working_dir: .}}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy, and the current folder."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "bad.yaml").write_text("apiVersion: heliostat.dev/v1alpha1\n")
    (tmp_path / "services" / "chat").mkdir(parents=True)
    (tmp_path / "services" / "chat" / "spec.yaml").write_text(GOOD)
    (tmp_path / "services" / "other.yml").write_text("apiVersion: v1\nkind: Secret\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(validate, arguments)


def test_a_folder_without_problems_exits_with_0_and_prints_nothing_on_stdout(repository: Path) -> None:
    result = run(".")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "1 spec file, 1 service: no problems\n"


def test_problems_are_printed_as_links_and_exit_with_1(repository: Path) -> None:
    spec = repository / "services" / "chat" / "spec.yaml"
    spec.write_text(GOOD.replace("working_dir: .", "working_dir: ../nowhere").replace("spec:", "spec:\n  nope: 1"))
    for path in (".", "services", "services/chat/spec.yaml", str(spec)):
        result = run(path)
        assert result.exit_code == 1
        first, second = result.stdout.splitlines()
        assert first.startswith('services/chat/spec.yaml:5:3: unknown field "nope"')
        assert second.startswith('services/chat/spec.yaml:6:69: the commit has no folder "services/nowhere"')
        assert result.stderr == "2 problems in 1 spec file, 0 services\n"


def test_links_start_from_the_current_folder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "services" / "chat" / "spec.yaml").write_text(GOOD.replace("chat}", "Chat}"))
    monkeypatch.chdir(repository / "services")
    assert run("chat").stdout.startswith("chat/spec.yaml:3:18: 'Chat' is not a DNS label")
    monkeypatch.chdir(repository / "services" / "chat")
    assert run("..").stdout.startswith("spec.yaml:3:18: 'Chat' is not a DNS label")


def test_json_is_one_document_on_stdout(repository: Path) -> None:
    (repository / "bad.yaml").write_text(GOOD.replace("chat}", "Chat}"))
    result = run(".", "-o", "json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["valid"] is False
    assert found["files"] == 2
    assert found["services"] == ["chat"]
    (error,) = found["errors"]
    assert (error["path"], error["line"], error["column"]) == ("bad.yaml", 3, 18)
    assert "DNS label" in error["message"]
    (repository / "bad.yaml").unlink()
    assert json.loads(run(".", "-o", "json").stdout) == {
        "valid": True,
        "files": 1,
        "services": ["chat"],
        "errors": [],
        "warnings": [],
    }


def test_calls_of_other_applications_are_warned_of(repository: Path) -> None:
    code = repository / "services" / "chat" / "app.py"
    code.write_text("from ray import serve\n# get_app_handle(x)\nhandle = serve.get_app_handle('rank')\n")
    result = run(".")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.startswith("services/chat/app.py:3:16: warning: get_app_handle does not find other services")
    (warning,) = json.loads(run(".", "-o", "json").stdout)["warnings"]
    assert (warning["path"], warning["line"], warning["column"]) == ("services/chat/app.py", 3, 16)


def test_a_name_taken_twice_is_seen_over_all_paths(repository: Path) -> None:
    (repository / "copy.yaml").write_text(GOOD)
    result = run("copy.yaml", "services")
    assert result.exit_code == 1
    assert "also taken at services/chat/spec.yaml:3:18" in result.stdout
    assert run("copy.yaml").exit_code == 0


def test_a_file_without_specs_is_pointed_out(repository: Path) -> None:
    result = run("services/other.yml")
    assert result.exit_code == 0
    assert "services/other.yml: no Heliostat document here" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("no-such-file.yaml",), (".", "-o", "xml")])
def test_wrong_usage_exits_with_2(repository: Path, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_without_a_repository_the_folder_itself_is_the_base(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(GOOD)
    assert run(str(tmp_path)).exit_code == 0
    (tmp_path / "spec.yaml").write_text(GOOD.replace("working_dir: .", "working_dir: .."))
    result = run(str(tmp_path / "spec.yaml"))
    assert result.exit_code == 1
    assert "leaves the repository" in result.stdout


def test_an_empty_folder_is_none_to_git(repository: Path) -> None:
    (repository / "empty").mkdir()
    (repository / "services" / "chat" / "spec.yaml").write_text(
        GOOD.replace("working_dir: .", "working_dir: ../../empty")
    )
    assert 'no folder "empty"' in run(".").stdout


@pytest.mark.parametrize(
    ("kind", "title"), [("service", "Service"), ("ClusterPolicy", "ClusterPolicy"), (None, "Heliostat spec")]
)
def test_the_schema_is_printed_as_json(kind: str | None, title: str) -> None:
    result = CliRunner().invoke(schema, [kind] if kind else [])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["title"] == title


def test_an_unknown_kind_exits_with_2() -> None:
    assert CliRunner().invoke(schema, ["pod"]).exit_code == 2


def test_a_link_in_place_of_a_spec_is_a_problem_and_one_to_other_yaml_is_none(repository: Path) -> None:
    (repository / "services" / "values.yaml").symlink_to("other.yml")
    assert run(".").exit_code == 0
    (repository / "services" / "linked.yaml").symlink_to("chat/spec.yaml")
    (repository / "services" / "outside.yaml").symlink_to("/etc/hostname")
    (repository / "services" / "nowhere.yaml").symlink_to("nothing.yaml")
    result = run(".")
    assert result.exit_code == 1
    assert [line.partition(": ")[0] for line in result.stdout.splitlines()] == [
        "services/linked.yaml:1:1",
        "services/nowhere.yaml:1:1",
        "services/outside.yaml:1:1",
    ]
    assert "this is a link" in result.stdout
    assert "1 service" in result.stderr


def test_outside_of_git_links_are_followed_as_mounted_configuration_is_made_of_them(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(GOOD.replace(", runtime_env: {working_dir: .}", ""))
    (tmp_path / "spec.yaml").symlink_to("real")
    assert run(str(tmp_path)).exit_code == 0
    assert "1 service" in run(str(tmp_path)).stderr


def test_a_git_lfs_pointer_is_a_problem_of_its_file(repository: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (repository / "services" / "chat" / "spec.yaml").write_text(pointer)
    result = run("services")
    assert result.exit_code == 1
    assert result.stdout.startswith("services/chat/spec.yaml:1:1: this is a Git LFS pointer")


def test_specs_of_another_repository_inside_are_told_and_not_counted(repository: Path) -> None:
    (repository / "services" / "chat" / ".git").write_text("gitdir: elsewhere\n")
    result = run(".")
    assert result.exit_code == 0
    assert "0 services" in result.stderr
    assert "services/chat/spec.yaml:1:1: warning: this is in another repository (services/chat)" in result.stderr
    assert "1 service" in run("services/chat").stderr


def test_what_links_lead_to_outside_is_not_read(repository: Path) -> None:
    (repository / "services" / "endless.yaml").symlink_to("/dev/zero")
    (repository / "services" / "chat" / "endless.py").symlink_to("/dev/zero")
    (repository / "services" / "memory.yaml").symlink_to("/proc/self/mem")
    result = run(".")
    assert [line.partition(": ")[0] for line in result.stdout.splitlines()] == [
        "services/endless.yaml:1:1",
        "services/memory.yaml:1:1",
    ]
