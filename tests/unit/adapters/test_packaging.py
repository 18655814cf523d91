from __future__ import annotations

import hashlib
import io
import stat
import time
import zipfile

import pytest

from reconciler.adapters.git_objects import Entry
from reconciler.adapters.packaging import Folder, build, check, link_targets, with_targets
from reconciler.errors import Stalled

FILES = {"app.py": b"print(1)\n", "bin/run": b"#!/bin/sh\n", "data/a.txt": b"a"}
MODES = {"bin/run": "100755"}


def oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes, mode: str = "100644") -> Entry:
    return Entry(path=path, mode=mode, oid=oid(content), size=len(content))


def folder(*more: Entry, top: str = "", files: dict[str, bytes] = FILES) -> Folder:
    entries = [entry(path, content, MODES.get(path, "100644")) for path, content in files.items()]
    return Folder(shown="chat", entries=(*entries, *more), top=top)


def pack(of: Folder, *more: bytes, max_bytes: int = 1000) -> zipfile.ZipFile:
    contents = {oid(content): content for content in (*FILES.values(), *more)}
    targets = {target: contents[target] for target in link_targets(of.entries)}
    files = check(with_targets(of, targets), max_bytes)
    return zipfile.ZipFile(io.BytesIO(build(of, files, contents)))


def link(path: str, target: str) -> Entry:
    return entry(path, target.encode(), "120000")


def test_a_zip_has_these_very_bytes_on_every_machine() -> None:
    of = folder()
    content = build(of, reversed(check(of)), {oid(content): content for content in FILES.values()})
    assert hashlib.sha256(content).hexdigest() == "b1215635ba0595d1992edfaf5689b2570e2e02f24b3bc48428c890dab4bc68ca"


def test_the_files_of_a_package_are_sorted_and_carry_no_time_or_owner() -> None:
    archive = pack(folder())
    assert archive.namelist() == ["app.py", "bin/run", "data/a.txt"]
    assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    modes = {info.filename: stat.filemode(info.external_attr >> 16) for info in archive.infolist()}
    assert modes == {"app.py": "-rw-r--r--", "bin/run": "-rwxr-xr-x", "data/a.txt": "-rw-r--r--"}


def test_a_module_package_keeps_the_folder_around_its_files() -> None:
    assert pack(folder(top="chat")).namelist() == ["chat/app.py", "chat/bin/run", "chat/data/a.txt"]


def test_an_id_names_content_modes_and_place_and_nothing_else() -> None:
    ids = {
        "same": folder(files=dict(reversed(FILES.items()))).id,
        "content": folder(files=FILES | {"app.py": b"print(2)\n"}).id,
        "name": folder(files={("main.py" if path == "app.py" else path): text for path, text in FILES.items()}).id,
        "mode": folder(entry("run.sh", b"", "100755")).id,
        "plain mode": folder(entry("run.sh", b"", "100644")).id,
        "top": folder(top="chat").id,
        "other top": folder(top="chat2").id,
    }
    assert ids["same"] == folder().id
    assert folder(entry("run.sh", b"", "100664")).id == ids["plain mode"]
    assert len({folder().id, *ids.values()}) == len(ids)
    assert all(len(value) == 40 and set(value) <= set("0123456789abcdef") for value in ids.values())


@pytest.mark.parametrize(
    ("target", "packed"),
    [
        ("app.py", {"link": b"print(1)\n"}),
        ("./data/../app.py", {"link": b"print(1)\n"}),
        ("data", {"link/a.txt": b"a"}),
    ],
)
def test_a_link_inside_the_folder_is_packed_as_what_it_points_to(target: str, packed: dict[str, bytes]) -> None:
    archive = pack(folder(link("link", target)), target.encode())
    assert {name: archive.read(name) for name in set(archive.namelist()) - set(FILES)} == packed


def test_a_link_to_a_program_stays_a_program_through_a_chain() -> None:
    archive = pack(folder(link("a", "b"), link("b", "bin/run")), b"b", b"bin/run")
    assert archive.getinfo("a").external_attr >> 16 == 0o100755


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/etc/passwd", "leaves the packaged folder"),
        ("../secret", "leaves the packaged folder"),
        ("data/../../x", "leaves the packaged folder"),
        ("..", "leaves the packaged folder"),
        ("nowhere", "not in the package"),
        ("link", "leads back to itself"),
    ],
)
def test_a_link_that_a_replica_could_not_follow_is_refused(target: str, said: str) -> None:
    with pytest.raises(Stalled, match=said) as refusal:
        pack(folder(link("link", target)), target.encode())
    assert "chat/link" in refusal.value.reason


def test_many_links_among_many_files_do_not_take_for_ever() -> None:
    files = {f"{name:05}.txt": b"a" for name in range(15_000)} | {"one/x": b"a", "one/y": b"b"}
    links = [link(f"links/{name}", "../one") for name in range(15_000)]
    begun = time.process_time()
    packed = check(with_targets(folder(*links, files=files), {oid(b"../one"): b"../one"}), 10**6)
    assert time.process_time() - begun < 5, "each link on its own takes a millisecond and more"
    assert len(packed) == 15_002 + 2 * 15_000


def test_a_link_to_the_folder_that_holds_it_is_refused() -> None:
    with pytest.raises(Stalled, match="holds links itself"):
        pack(folder(link("data/loop", "../data")), b"../data")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Entry(path="lib", mode="160000", oid="0" * 40), "submodule"),
        (Entry(path="dev", mode="020000", oid="0" * 40, size=0), "neither a file nor a link"),
        (entry("a\\b", b""), "does not unpack"),
        (entry("c:x", b""), "does not unpack"),
        (entry("caf\udce9", b""), "not UTF-8"),
    ],
)
def test_what_cannot_be_unpacked_is_refused_by_name(bad: Entry, said: str) -> None:
    with pytest.raises(Stalled, match=said) as refusal:
        check(folder(bad))
    refusal.value.reason.encode()


def test_a_git_lfs_pointer_is_refused_instead_of_shipped_as_the_file() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"
    with pytest.raises(Stalled, match=r"chat/model\.bin is a Git LFS pointer"):
        pack(folder(entry("model.bin", pointer)), pointer)


def test_a_package_that_is_too_large_names_its_largest_files() -> None:
    big = [entry(f"{size}.bin", b"x" * size) for size in (700, 900, 800, 10)]
    with pytest.raises(Stalled) as refusal:
        check(folder(*big), max_bytes=1000)
    assert refusal.value.reason.index("900.bin") < refusal.value.reason.index("800.bin")
    assert "10.bin" not in refusal.value.reason


def test_a_package_of_exactly_the_limit_passes() -> None:
    total = sum(len(content) for content in FILES.values())
    assert len(check(folder(), max_bytes=total)) == len(FILES)
    with pytest.raises(Stalled):
        check(folder(), max_bytes=total - 1)
