"""`heliostat render`, `validate` and `plan` of services that share a spec, on files and commits as users have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from reconciler.cli.main import heliostat
from tests.origin import Origin
from tests.unit.specs.test_overlays import BASE, PROD, VARS

FILES = {"base/chat.yaml": BASE, "base/app/app.py": "x", "prod/chat.yaml": PROD, "prod/vars.yaml": VARS}


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Origin:
    found = Origin(tmp_path / "work")
    found.commit(FILES, "First")
    monkeypatch.chdir(found.folder)
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(heliostat, arguments)


def test_a_service_is_printed_as_the_daemon_takes_it_without_its_secrets(origin: Origin) -> None:
    result = run("render", "prod")
    assert result.exit_code == 0, result.output
    (document,) = yaml.safe_load_all(result.stdout)
    assert document["metadata"]["name"] == "chat"
    assert "bases" not in document
    assert document["spec"]["application"]["args"]["url"] == "https://us.example/large"
    assert document["spec"]["application"]["runtime_env"]["env_vars"] == {"A": "***", "C": "***"}
    (open_one,) = yaml.safe_load_all(run("render", "prod", "--show-secrets").stdout)
    assert open_one["spec"]["application"]["runtime_env"]["env_vars"] == {"A": "1", "C": "3"}


def test_what_is_rendered_is_a_spec_that_means_the_same(origin: Origin) -> None:
    alone = run("render", "prod", "--show-secrets").stdout.replace("../base/app", "app")
    origin.commit({"base/chat.yaml": alone, "base/app/app.py": "x"}, "Rendered")
    result = run("plan")
    assert result.stdout.splitlines()[-1] == "Plan: 0 to add, 0 to change, 0 to destroy, 0 on hold", result.output


def test_defaults_are_printed_when_asked_for(origin: Origin) -> None:
    (document,) = yaml.safe_load_all(run("render", "prod", "--defaults").stdout)
    assert document["spec"]["rollout"]["progressDeadline"] == "10m"


def test_problems_and_unknown_names_exit_with_1(origin: Origin) -> None:
    assert "no valid service called nope" in run("render", "prod", "--service", "nope").stderr
    origin.write({**FILES, "base/chat.yaml": BASE.replace("num_cpus", "num_cpu")})
    for verb in ("render", "validate"):
        result = run(verb, "prod")
        assert result.exit_code == 1
        assert "base/chat.yaml:11:59" in result.output


def test_a_base_beyond_the_daemons_folder_is_read_and_its_change_is_planned(origin: Origin) -> None:
    changed = {**FILES, "base/chat.yaml": BASE.replace("model: small", "model: huge"), "base/app/app.py": "y"}
    origin.commit(changed, "Second")
    result = run("plan", "--path", "prod")
    assert 'application.args.model: "small" -> "huge"' in result.stdout
    assert "~ base/app/app.py" in result.stdout
    assert result.stdout.splitlines()[-1] == "Plan: 0 to add, 1 to change, 0 to destroy, 0 on hold"


def test_a_link_is_no_base(origin: Origin) -> None:
    (origin.folder / "base/chat.yaml").unlink()
    (origin.folder / "base/chat.yaml").symlink_to("/etc/hostname")
    origin.commit(message="Link")
    assert 'the commit has no file "base/chat.yaml"' in run("plan", "--path", "prod").stdout
    assert 'the commit has no file "base/chat.yaml"' in run("validate", "prod").stdout
