"""What the README and the demo tell a user to type: the same, and each edit does what is said of it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from reconciler.demo import farewell
from reconciler.demo.farewell import DEFAULT_SERVER, Places, next_steps
from reconciler.demo.repository import APP, BROKEN, SECOND, SPEC, SampleRepository
from reconciler.demo.screen import Screen
from specs.desired import FixedScale, Revision
from tests.typed import printed_commands, readme_commands
from tests.unit.specs.commits import KnownFolders, read


def told(repository: str, page: str = DEFAULT_SERVER) -> list[str]:
    """Return the commands that a demo prints."""
    places = Places(page=page, service="", ray="", repository=Path(repository), log=Path("log"))
    return printed_commands("\n".join(next_steps(places, Screen())))


def test_the_readme_has_the_commands_that_the_demo_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "command_name", lambda: "heliostat")
    activate, *others = readme_commands()
    assert activate == "source .venv/bin/activate"
    assert [shlex.split(line) for line in others] == [shlex.split(line) for line in told("REPO")]


def test_a_demo_on_other_ports_names_its_server_wherever_it_is_needed() -> None:
    verbs = [
        line for line in told("/r", "http://127.0.0.1:9001") if line.split()[1] in ("status", "history", "compaction")
    ]
    assert len(verbs) == 3
    assert all(line.endswith(" --server http://127.0.0.1:9001") for line in verbs)


@pytest.fixture
def repository(tmp_path: Path) -> SampleRepository:
    """Return a repository as the story leaves it."""
    made = SampleRepository(tmp_path / "repo")
    made.create()
    made.add_service()
    made.push(SECOND)
    made.push(BROKEN)
    return made


def revision(repository: SampleRepository) -> Revision:
    """Return what the daemon would make of the commit; the package is the content of the service's folder."""
    paths = subprocess.check_output(["git", "ls-tree", "-r", "--name-only", "HEAD", "services"], cwd=repository.folder)
    code = [path for path in paths.decode().split() if not path.endswith(".yaml")]
    files = {path: subprocess.check_output(["git", "show", f"HEAD:{path}"], cwd=repository.folder) for path in code}
    desired = read((repository.folder / SPEC).read_text(), folders=KnownFolders({"": repr(files)}))
    assert desired.errors == ()
    return desired.services[0].revision


def test_each_edit_that_a_user_is_told_to_type_does_what_is_said_of_it(repository: SampleRepository) -> None:
    edits = [line for line in told(str(repository.folder)) if line.split()[0] in ("echo", "git", "sed")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    seen: list[Revision] = [revision(repository)]

    for line in edits:
        subprocess.run(["bash", "-ec", line], check=True, cwd=repository.folder, env=environment, capture_output=True)
        if "git " in line:
            seen.append(revision(repository))
            compile((repository.folder / APP).read_text(), APP, "exec")

    assert not subprocess.check_output(["git", "status", "--porcelain"], cwd=repository.folder)
    broken, mended, changed, worse, back, scaled = seen
    assert len({broken.id, mended.id, changed.id, worse.id}) == 4
    assert (repository.folder / "services" / "greeter" / "greeting.txt").read_text() == "Hello\n"
    assert 'VERSION = "v4"' in (repository.folder / APP).read_text()
    assert "1 / 0" in subprocess.check_output(["git", "show", "HEAD~2"], cwd=repository.folder, text=True)
    assert back.id == changed.id == scaled.id
    assert [deployment.scale for deployment in scaled.deployments] == [FixedScale(replicas=4)]
    assert [deployment.scale for deployment in back.deployments] == [FixedScale(replicas=3)]
