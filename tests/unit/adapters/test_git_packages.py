from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import pytest

from reconciler.adapters.git_command import GitCommand
from reconciler.adapters.git_location import locate
from reconciler.adapters.git_objects import Objects
from reconciler.adapters.git_packages import Packer
from reconciler.errors import Stalled
from specs.desired import PackageRef
from tests.origin import Origin, git

SPEC = b"apiVersion: heliostat.dev/v1alpha1\n"


class Packed:
    """Packages straight out of a person's repository."""

    def __init__(self, origin: Origin, max_bytes: int) -> None:
        self.origin = origin
        objects = Objects(GitCommand(origin.folder / ".git", locate(str(origin.folder))))
        self.packer = Packer(objects, lambda content: content.startswith(b"apiVersion: heliostat.dev/"), max_bytes)

    def id(self, commit: str, path: str = "app", *, keep_folder: bool = False) -> str | None:
        return self.packer.at(commit).package_id(path, keep_folder=keep_folder)

    def names(self, commit: str, path: str = "app", *, keep_folder: bool = False) -> list[str]:
        return self.archive(commit, path, keep_folder=keep_folder).namelist()

    def archive(self, commit: str, path: str = "app", *, keep_folder: bool = False) -> zipfile.ZipFile:
        tree = self.id(commit, path, keep_folder=keep_folder)
        assert tree is not None
        ref = PackageRef(where="working_dir", commit=commit, path=path, tree=tree, keep_folder=keep_folder)
        return zipfile.ZipFile(io.BytesIO(self.packer.package(ref)))


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return Packed(Origin(tmp_path / "origin"), max_bytes=1000)


def test_a_package_is_the_commit_not_the_work_tree(packed: Packed) -> None:
    sha = packed.origin.commit({"app/a.py": "committed"})
    packed.origin.write({"app/a.py": "edited", "app/b.py": "new"})
    archive = packed.archive(sha)
    assert {name: archive.read(name) for name in archive.namelist()} == {"a.py": b"committed"}


def test_export_ignored_files_and_folders_stay_out_wherever_it_is_said(packed: Packed) -> None:
    sha = packed.origin.commit(
        {
            ".gitattributes": "*.md export-ignore\n/app/data/ export-ignore\n/b.py export-ignore\n",
            "app/.gitattributes": "tests export-ignore\n.gitattributes export-ignore\nkeep.md -export-ignore\n",
            "app/a.py": "",
            "app/b.py": "only the one at the root is ignored",
            "app/README.md": "",
            "app/keep.md": "",
            "app/data/deep/x.bin": "",
            "app/tests/test_a.py": "",
            "app/lib/tests/test_b.py": "",
            "app/lib/data/y": "",
        }
    )
    assert packed.names(sha) == ["a.py", "b.py", "keep.md", "lib/data/y"]


def test_many_files_in_a_deep_folder_do_not_take_for_ever(packed: Packed) -> None:
    """Git nests two thousand folders; each file on its own would be asked for in all of them."""
    deep = "/".join(["app", *["d"] * 1000])
    lines = ["blob\nmark :1\ndata 1\na\n", "blob\nmark :2\ndata 20\n/d/ export-ignore -x\n"]
    lines += ["commit refs/heads/main\ncommitter A <a@b> 1700000000 +0000\ndata 1\nx\n"]
    lines += ["M 100644 :2 app/.gitattributes\n", *(f"M 100644 :1 {deep}/{name}\n" for name in range(2000))]
    git(packed.origin.folder, "fast-import", "--quiet", stdin="".join(lines).encode())
    sha = git(packed.origin.folder, "rev-parse", "main")
    begun = time.process_time()
    assert packed.names(sha) == [".gitattributes"]
    assert time.process_time() - begun < 3


def test_attributes_of_the_machine_do_not_count(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attributes").write_text("* export-ignore\n")
    (tmp_path / "config").write_text(f"[core]\n\tattributesFile = {tmp_path / 'attributes'}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    sha = packed.origin.commit({"app/a.py": "", "app/.gitattributes": "*.md export-ignore\n"})
    assert packed.names(sha) == [".gitattributes", "a.py"]


def test_specs_stay_out_and_other_yaml_stays_in(packed: Packed) -> None:
    sha = packed.origin.commit(
        {"app/a.yaml": SPEC, "app/sub/b.yml": SPEC, "app/model.yaml": "layers: 3\n", "app/x": SPEC}
    )
    assert packed.names(sha) == ["model.yaml", "x"]


def test_a_spec_change_does_not_rename_the_package_and_code_does(packed: Packed) -> None:
    first = packed.origin.commit({"app/s.yaml": SPEC, "app/a.py": "1"})
    spec = packed.origin.commit({"app/s.yaml": SPEC + b"# more\n", "app/a.py": "1"})
    code = packed.origin.commit({"app/s.yaml": SPEC, "app/a.py": "2"})
    assert packed.id(first) == packed.id(spec) != packed.id(code)


def test_what_export_ignore_hides_does_not_rename_the_package(packed: Packed) -> None:
    attributes = {".gitattributes": "*.md export-ignore\n", "app/a.py": "1"}
    first = packed.origin.commit(attributes | {"app/x.md": "1"})
    hidden = packed.origin.commit(attributes | {"app/x.md": "2"})
    shown = packed.origin.commit({"app/a.py": "1", "app/x.md": "2"})
    assert packed.id(first) == packed.id(hidden) != packed.id(shown)


def test_the_executable_bit_is_kept_and_counts(packed: Packed) -> None:
    plain = packed.origin.commit({"app/run": "#!/bin/sh\n"})
    (packed.origin.folder / "app/run").chmod(0o755)
    program = packed.origin.commit()
    assert packed.id(plain) != packed.id(program)
    assert packed.archive(program).getinfo("run").external_attr >> 16 == 0o100755


@pytest.mark.parametrize("path", ["", ".", "app", "app/", "./app", "app/sub"])
def test_folders_are_found_however_they_are_written(packed: Packed, path: str) -> None:
    sha = packed.origin.commit({"app/sub/a.py": "", "app/b.py": ""})
    assert packed.id(sha, path)


@pytest.mark.parametrize("path", ["nowhere", "app/b.py", "../app", "app/sub/deeper"])
def test_what_is_no_folder_has_no_package(packed: Packed, path: str) -> None:
    sha = packed.origin.commit({"app/sub/a.py": "", "app/b.py": ""})
    assert packed.id(sha, path) is None


def test_a_module_keeps_its_folder_and_the_root_has_no_name_to_keep(packed: Packed) -> None:
    sha = packed.origin.commit({"lib/text/__init__.py": "", "lib/text/a.py": ""})
    assert packed.names(sha, "lib/text", keep_folder=True) == ["text/__init__.py", "text/a.py"]
    assert packed.id(sha, "lib/text", keep_folder=True) != packed.id(sha, "lib/text")
    assert packed.id(sha, "", keep_folder=True) is None


def test_the_same_folder_elsewhere_in_history_has_the_same_name(packed: Packed) -> None:
    first = packed.origin.commit({"app/a.py": "1"})
    packed.origin.commit({"app/a.py": "2"})
    again = packed.origin.commit({"app/a.py": "1", "other": ""})
    assert packed.id(first) == packed.id(again)


def test_odd_names_are_packed_as_they_are(packed: Packed) -> None:
    names = ["a b.py", "caf\u00e9.py", 'quo"te', "new\nline", "-dash", "[x]*?"]
    sha = packed.origin.commit({f"app/{name}": "" for name in names} | {"app/.gitattributes": "*.md export-ignore\n"})
    assert sorted(packed.names(sha)) == sorted([".gitattributes", *names])


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(packed: Packed) -> None:
    packed.origin.write({"app/a.py": "a", "secret": "s"})
    (packed.origin.folder / "app/b.py").symlink_to("a.py")
    inside = packed.origin.commit()
    assert packed.archive(inside).read("b.py") == b"a"
    (packed.origin.folder / "app/c").symlink_to("../secret")
    outside = packed.origin.commit()
    with pytest.raises(Stalled, match="app/c is a link that leaves"):
        packed.names(outside)


def test_a_submodule_is_refused_unless_it_is_ignored(packed: Packed) -> None:
    sha = packed.origin.commit({"app/a.py": ""})
    git(packed.origin.folder, "update-index", "--add", "--cacheinfo", f"160000,{sha},app/vendor")
    git(packed.origin.folder, "commit", "--quiet", "-m", "Submodule")
    with pytest.raises(Stalled, match="app/vendor is a submodule"):
        packed.names(git(packed.origin.folder, "rev-parse", "HEAD"))
    git(packed.origin.folder, "update-index", "--add", "--cacheinfo", f"100644,{_blob(packed)},.gitattributes")
    git(packed.origin.folder, "commit", "--quiet", "-m", "Ignore it")
    assert packed.names(git(packed.origin.folder, "rev-parse", "HEAD")) == ["a.py"]


def _blob(packed: Packed) -> str:
    return git(packed.origin.folder, "hash-object", "-w", "--stdin", stdin=b"vendor export-ignore\n")


def test_the_size_limit_counts_what_is_packed_only(packed: Packed) -> None:
    files = {"app/a.bin": "x" * 600, "app/b.bin": "x" * 500}
    with pytest.raises(Stalled, match=r"largest: a\.bin"):
        packed.names(packed.origin.commit(files))
    assert packed.names(packed.origin.commit(files | {".gitattributes": "a.bin export-ignore\n"})) == ["b.bin"]


def test_packages_of_unchanged_folders_are_not_listed_again(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packed.origin.commit({"app/a.py": "1"})
    second = packed.origin.commit({"app/a.py": "1", "other": "2"})
    name = packed.id(first)
    monkeypatch.setattr(Objects, "files", lambda *_: pytest.fail("listed again"))
    assert packed.id(second) == name
