"""The sample repository: what the story relies on, and what the example repository shows."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reconciler.demo.repository import (
    APP,
    BROKEN,
    MISSING_FILE,
    POLICY,
    ROUTE,
    SECOND,
    SERVICE,
    SPEC,
    SURGE,
    TARGET,
    SampleRepository,
    sample,
)
from specs.desired import Commit, Desired, FixedScale
from specs.parse import read_desired

EXAMPLE = Path(__file__).parents[3] / "deploy" / "examples" / "config-repo"


class Packaged:
    """Every folder exists and has one content."""

    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        return "0" * 40


def read(files: dict[str, str]) -> Desired:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    commit = Commit(branch="main", sha="1" * 40, committed_at=at, author="Ann", subject="Add services")
    return read_desired(commit, {path: text.encode() for path, text in files.items()}, Packaged())


@pytest.fixture
def repository(tmp_path: Path) -> SampleRepository:
    made = SampleRepository(tmp_path / "repo")
    made.create()
    return made


def code(repository: SampleRepository) -> str:
    return (repository.folder / APP).read_text()


def test_the_sample_is_valid_and_has_the_numbers_that_the_story_tells() -> None:
    desired = read({SPEC: sample("service.yaml")})

    assert desired.errors == ()
    (service,) = desired.services
    assert (service.name, service.route) == (SERVICE, ROUTE)
    (deployment,) = service.revision.deployments
    assert deployment.scale == FixedScale(replicas=TARGET)
    assert service.rollout.max_surge.round_up(TARGET) == SURGE
    assert [step.weight for step in service.rollout.steps if hasattr(step, "weight")] == [20, 50]


def test_the_cluster_of_the_sample_is_compacted_but_not_while_the_story_is_told(repository: SampleRepository) -> None:
    desired = read({POLICY: (repository.folder / POLICY).read_text()})

    assert desired.errors == ()
    assert desired.settings.compaction.enabled
    assert desired.settings.compaction.settle >= timedelta(minutes=5)


def test_the_example_repository_shows_the_same_service_and_is_valid_as_a_whole() -> None:
    assert (EXAMPLE / SPEC).read_text() == sample("service.yaml")
    assert (EXAMPLE / APP).read_text() == sample("app.py")

    desired = read({str(path.relative_to(EXAMPLE)): path.read_text() for path in EXAMPLE.rglob("*.yaml")})

    assert desired.errors == ()
    assert [service.name for service in desired.services] == ["greeter", "shout"]


def test_each_push_is_one_commit_of_one_change(repository: SampleRepository) -> None:
    repository.add_service()
    repository.push(SECOND)
    assert 'VERSION = "v2"' in code(repository)
    repository.push(BROKEN)
    assert 'VERSION = "v3"' in code(repository)
    assert f'open("{MISSING_FILE}")' in code(repository)

    log = subprocess.check_output(["git", "log", "--format=%s", "main"], cwd=repository.folder, text=True)
    assert log.splitlines()[:3] == [BROKEN.message, SECOND.message, "Add the greeter"]
    assert not subprocess.check_output(["git", "status", "--porcelain"], cwd=repository.folder)


def test_every_version_is_python_that_compiles(repository: SampleRepository) -> None:
    repository.add_service()
    compile(code(repository), APP, "exec")
    for change in (SECOND, BROKEN):
        repository.push(change)
        compile(code(repository), APP, "exec")


def test_a_change_that_does_not_fit_is_a_bug_and_not_an_empty_commit(repository: SampleRepository) -> None:
    repository.add_service()
    repository.push(SECOND)

    with pytest.raises(ValueError, match="does not hold"):
        repository.push(SECOND)
