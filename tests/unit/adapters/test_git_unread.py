"""What takes a spec's place without being a file is an error of that place, and never a removal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.adapters.git_location import locate
from reconciler.adapters.git_mirror import Mirror
from reconciler.adapters.git_specs import CommitReader
from reconciler.planning.changes import changes
from reconciler.planning.moment import Surroundings
from reconciler.planning.plan import make_plan
from specs.decisions import Hold
from specs.desired import Desired
from specs.memory import Memory, ServiceMemory
from specs.observed import Observed
from specs.parse import Specs
from specs.planned import Action
from specs.reasons import Reason
from specs.unread import with_lost
from specs.world import World
from tests.builders import GATEWAY_URL, NOW
from tests.origin import Origin, git
from tests.watched import Watched, spec

POLICY = """apiVersion: heliostat.dev/v1alpha1
kind: ClusterPolicy
metadata: {name: default}
spec: {prune: {enabled: true, maxServices: 9, maxFraction: 100%}}
"""
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FILES = {"policy.yaml": POLICY, "stay.yaml": spec("stay"), "team/chat.yaml": spec("chat"), "base/x.yaml": spec("x")}


class Repository:
    """A repository whose commits are read as the daemon reads them."""

    def __init__(self, folder: Path) -> None:
        self.origin = Origin(folder / "origin")
        self.mirror = Mirror(self.origin.folder / ".git", locate(str(self.origin.folder)), "main")
        self.first = self.read(self.origin.commit(FILES))

    @property
    def folder(self) -> Path:
        return self.origin.folder

    def read(self, sha: str, path: str = "") -> Specs:
        return CommitReader(self.mirror.objects, path).read(sha, "main")

    def submodule(self, path: str) -> str:
        """Commit a submodule in place of whatever is there."""
        head = git(self.folder, "rev-parse", "HEAD")
        git(self.folder, "rm", "-r", "--quiet", "--cached", path)
        git(self.folder, "update-index", "--add", "--cacheinfo", f"160000,{head},{path}")
        git(self.folder, "commit", "--quiet", "-m", "Submodule")
        return git(self.folder, "rev-parse", "HEAD")

    def pointer(self) -> str:
        return self.origin.commit(FILES | {"team/chat.yaml": LFS})

    def link(self, target: str, path: str = "team/chat.yaml") -> str:
        place = self.folder / path
        place.unlink(missing_ok=True)
        place.symlink_to(target)
        return self.origin.commit()

    def linked_folder(self) -> str:
        self.origin.write({path: text for path, text in FILES.items() if path != "team/chat.yaml"})
        (self.folder / "team").symlink_to("base")
        return self.origin.commit()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


WAYS: dict[str, tuple[Callable[[Repository], str], str, str]] = {
    "LFS pointer": (Repository.pointer, "team/chat.yaml", "Git LFS pointer"),
    "link to a spec": (lambda repository: repository.link("../base/x.yaml"), "team/chat.yaml", "is a link"),
    "link to nothing": (lambda repository: repository.link("nowhere.yaml"), "team/chat.yaml", "is a link"),
    "link out of the repository": (lambda repository: repository.link("/etc/hostname"), "team/chat.yaml", "is a link"),
    "submodule for the file": (
        lambda repository: repository.submodule("team/chat.yaml"),
        "team/chat.yaml",
        "submodule",
    ),
    "link for the folder": (Repository.linked_folder, "team", "is a link"),
    "submodule for the folder": (lambda repository: repository.submodule("team"), "team", "submodule"),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_an_error_of_its_place_and_the_service_stays(repository: Repository, way: str) -> None:
    become, place, told = WAYS[way]
    after = repository.read(become(repository)).desired
    assert "chat" not in [service.name for service in after.services]
    found = make_plan(world(repository.first.desired, after), Surroundings(gateway_url=GATEWAY_URL))
    (hold,) = (one for one in found.decisions["chat"] if isinstance(one, Hold))
    assert hold.reason is Reason.INVALID_SPEC
    assert not found.memory.services["chat"].is_removed
    assert found.world.desired is not None
    (error,) = found.world.desired.errors
    assert (error.path, error.line, error.column) == (place, 1, 1)
    assert told in error.message


def test_a_service_on_its_way_out_is_not_missed(repository: Repository) -> None:
    after = repository.read(repository.submodule("team")).desired
    before = world(repository.first.desired, after)
    leaving = replace(before.memory.services["chat"], is_removed=True)
    services = {**before.memory.services, "chat": leaving}
    found = make_plan(replace(before, memory=Memory(services=services)), Surroundings(gateway_url=GATEWAY_URL))
    assert found.world.desired is not None
    assert found.world.desired.errors == ()
    assert "chat" not in found.memory.services, "nothing is left of it in the cluster"


def world(before: Desired, after: Desired) -> World:
    """Return the world of a daemon that runs what a commit wanted, at another commit."""
    services = {
        service.name: ServiceMemory(
            name=service.name,
            wanted=service,
            stable=service.revision.id,
        )
        for service in before.services
    }
    return World(now=NOW, desired=after, observed=Observed(at=NOW, complete=True), memory=Memory(services=services))


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_keeps_the_service_and_says_why(repository: Repository, way: str) -> None:
    become, place, told = WAYS[way]
    change = changes(repository.first, repository.read(become(repository)), lambda _: {})
    (service,) = change.services
    assert (service.name, service.action) == ("chat", Action.KEEP)
    (error,) = change.errors
    assert error.path == place
    assert told in error.message


def test_without_any_such_thing_the_service_is_removed(repository: Repository) -> None:
    gone = {path: text for path, text in FILES.items() if path != "team/chat.yaml"}
    after = repository.read(repository.origin.commit(gone))
    (service,) = changes(repository.first, after, lambda _: {}).services
    assert (service.name, service.action, service.holds) == ("chat", Action.DESTROY, ())


def test_links_and_submodules_of_code_are_nobodys_error(repository: Repository) -> None:
    repository.origin.write(FILES | {"values.yaml": "a: 1\n"})
    repository.link("../values.yaml", "team/values.yaml")
    repository.link("../base", "team/library")
    head = git(repository.folder, "rev-parse", "HEAD")
    git(repository.folder, "update-index", "--add", "--cacheinfo", f"160000,{head},vendor")
    git(repository.folder, "commit", "--quiet", "-m", "Vendor")
    after = repository.read(git(repository.folder, "rev-parse", "HEAD")).desired
    assert [place.path for place in after.unread] == ["team/library", "team/values.yaml", "vendor"]
    assert with_lost(after, repository.first.desired.services, "policy.yaml").errors == ()


def test_a_service_that_moved_out_of_a_folder_is_not_lost(repository: Repository) -> None:
    repository.origin.commit(FILES | {"new/chat.yaml": spec("chat")})
    after = repository.read(repository.submodule("team")).desired
    assert with_lost(after, repository.first.desired.services, "policy.yaml").errors == ()


def test_only_the_folder_with_the_specs_is_looked_at(repository: Repository) -> None:
    sha = repository.link("/etc/hostname", "base/other.yaml")
    assert [error.path for error in repository.read(sha).desired.errors] == ["base/other.yaml"]
    assert repository.read(sha, "team").desired.errors == ()
    (repository.folder / ".github").mkdir()
    sha = repository.link("/etc/hostname", ".github/odd.yaml")
    assert [error.path for error in repository.read(sha).desired.errors] == ["base/other.yaml"]


def test_a_base_that_became_a_pointer_is_told_at_its_place(repository: Repository) -> None:
    on_top = "apiVersion: heliostat.dev/v1alpha1\nkind: Service\nmetadata: {name: top}\nbases: [../lib/b.yaml]\n"
    sha = repository.origin.commit({"services/top.yaml": on_top, "lib/b.yaml": LFS})
    errors = [str(error) for error in repository.read(sha, "services").desired.errors]
    assert errors[0].startswith("lib/b.yaml:1:1: this is a Git LFS pointer")


def test_of_bases_elsewhere_only_those_of_the_newest_commit_are_held(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_top = "apiVersion: heliostat.dev/v1alpha1\nkind: Service\nmetadata: {name: top}\nbases: [../lib/b.yaml]\n"
    reader, read = CommitReader(repository.mirror.objects, "services"), list[str]()
    blobs = repository.mirror.objects.blobs
    monkeypatch.setattr(
        repository.mirror.objects, "blobs", lambda oids: read.extend(found := list(oids)) or blobs(found)
    )
    for label in ("one", "two", "two", "three"):
        base = f"apiVersion: heliostat.dev/v1alpha1\nkind: ServiceBase\nmetadata: {{labels: {{is: {label}}}}}\n"
        base += 'spec: {application: {import_path: "a:b"}}\n'
        sha = repository.origin.commit({"services/top.yaml": on_top, "lib/b.yaml": base})
        assert reader.read(sha, "main").desired.services[0].labels == {"is": label}
        assert len(reader._bases) == 1
    assert len(read) == 4, "the service once, each base once"


# -- a ClusterPolicy that cannot be read any more ----------------------------------------------------

APART = {"chat.yaml": spec("chat"), "rules/policy.yaml": POLICY}


async def test_a_policy_whose_folder_becomes_a_submodule_stays_in_force(tmp_path: Path) -> None:
    repository, state = Repository(tmp_path), tmp_path / "state"

    async def seen(sha: str) -> Desired:
        desired = (await Watched(repository.folder, state).see(sha)).desired
        assert desired is not None
        return desired

    assert (await seen(repository.origin.commit(APART))).settings.prune.enabled
    lost = repository.submodule("rules")
    for _ in range(2):  # the second one starts at the commit that has lost it
        found = await seen(lost)
        assert found.settings.prune.enabled
        assert [(error.path, "submodule" in error.message) for error in found.errors] == [("rules", True)]
    later = repository.origin.commit(message="Something else")
    assert (await seen(later)).settings.prune.enabled
    assert [error.path for error in (await seen(later)).errors] == ["rules"]
    elsewhere = repository.origin.commit({"chat.yaml": spec("chat"), "p.yaml": POLICY.replace("true", "false")})
    found = await seen(elsewhere)
    assert (found.settings.prune.enabled, found.errors) == (False, ())


async def test_a_policy_that_was_taken_out_is_not_missed_where_a_submodule_comes_later(tmp_path: Path) -> None:
    repository, state = Repository(tmp_path), tmp_path / "state"
    broken = APART | {"rules/policy.yaml": POLICY.replace("prune", "prunes")}
    for files in (APART, broken, {"chat.yaml": spec("chat"), "rules/readme.md": "none"}):
        await Watched(repository.folder, state).see(repository.origin.commit(files))
    sha = repository.submodule("rules")
    for _ in range(2):
        desired = (await Watched(repository.folder, state).see(sha)).desired
        assert desired is not None
        assert (desired.settings.prune.enabled, desired.errors) == (False, ())


def test_a_plan_does_not_call_a_policy_removed_that_cannot_be_read(repository: Repository) -> None:
    before = repository.read(repository.origin.commit(APART))
    change = changes(before, repository.read(repository.submodule("rules")), lambda _: {})
    assert change.policy == ()
    assert [error.path for error in change.errors] == ["rules"]
    gone = repository.origin.commit({"chat.yaml": spec("chat")})
    assert changes(before, repository.read(gone), lambda _: {}).policy
