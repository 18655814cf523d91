"""Runtime environments of a spec: folders of the commit, package addresses, and Ray's rules for the rest."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from specs.desired import PackageRef
from specs.problems import Problem, describe, did_you_mean
from specs.secrets import env_from_problems
from specs.yaml_marks import Path

KNOWN_FIELDS = (
    *("working_dir", "py_modules", "py_executable", "java_jars", "pip", "uv", "conda", "container", "image_uri"),
    *("env_vars", "envFrom", "config", "worker_process_setup_hook", "excludes"),
)
"""Ray's own fields (`ray/runtime_env/runtime_env.py`). Plug-ins may add others."""

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.xz")
REMOTE_SCHEMES = ("gcs", "http", "https", "s3", "gs", "azure", "abfss", "file")


class PackageIndex(Protocol):
    """The folders of one commit, by content."""

    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        """Return the content hash of the folder `path` as packaged; None when the commit has no such folder.

        `path` is relative to the repository's root, "" for the root itself. With `keep_folder` the package
        holds the folder itself, not only what is in it.
        """


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a runtime environment stands: its path in the document, and its name in `PackageRef.where`."""

    path: Path
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """The folders that a spec file may name."""

    commit: str
    file: str
    index: PackageIndex
    read: Callable[[str], bytes | None] = field(default=lambda path: None, repr=False)
    """Other files of the commit, by their path from the root."""

    def resolve(self, written: str) -> str | None:
        """Return a path relative to the file as one relative to the root; None when it leaves the repository."""
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(self.file), written))
        if joined == ".." or joined.startswith(("../", "/")):
            return None
        return "" if joined == "." else joined


def package_folders(env: Any, place: Place, folders: Folders) -> Iterator[PackageRef | Problem]:
    """Yield the package of each folder that `env` names, and what is wrong with its package fields."""
    if not isinstance(env, dict):
        return
    if env.get("working_dir") is not None:
        found = _package(env["working_dir"], _below(place, "working_dir"), folders, is_module=False)
        if found is not None:
            yield found
    modules = env.get("py_modules")
    if modules is None:
        return
    if not isinstance(modules, list):
        yield Problem(path=(*place.path, "py_modules"), message="py_modules is a list: write - folder")
        return
    for index, module in enumerate(modules):
        found = _package(module, _below(place, "py_modules", index), folders, is_module=True)
        if found is not None:
            yield found


def _below(place: Place, *steps: str | int) -> Place:
    return Place(path=(*place.path, *steps), where=".".join((place.where, *map(str, steps))).lstrip("."))


def _package(written: Any, place: Place, folders: Folders, *, is_module: bool) -> PackageRef | Problem | None:
    if not isinstance(written, str) or not written:
        expected = f"a folder of this repository or an address is expected here, not {describe(written)}"
        return Problem(path=place.path, message=expected)
    if _scheme(written):
        wrong = _address_problem(written, is_module=is_module)
        return Problem(path=place.path, message=wrong) if wrong else None
    return _folder(written, place, folders, is_module=is_module)


def _scheme(written: str) -> str:
    scheme, mark, _ = written.partition("://")
    return scheme.lower() if mark else ""


def _folder(written: str, place: Place, folders: Folders, *, is_module: bool) -> PackageRef | Problem:
    if written.startswith(("/", "~")) or written[1:3] in (":\\", ":/"):
        message = (
            f'"{written}" is a path on one machine: write a folder of this repository relative to this file, such as '
            '".", or an address such as s3://bucket/app.zip'
        )
        return Problem(path=place.path, message=message)
    path = folders.resolve(written)
    if path is None:
        message = f'"{written}" leaves the repository: write a folder inside of it, relative to this file'
        return Problem(path=place.path, message=message)
    if is_module and not path:
        message = "a module is imported by its folder's name, and the repository's root has none: write a folder in it"
        return Problem(path=place.path, message=message)
    tree = folders.index.package_id(path, keep_folder=is_module)
    if tree is None:
        message = f'the commit has no folder "{path or "."}": write an existing folder, relative to {folders.file}'
        return Problem(path=place.path, message=message)
    return PackageRef(where=place.where, commit=folders.commit, path=path, tree=tree, keep_folder=is_module)


def _address_problem(address: str, *, is_module: bool) -> str | None:
    scheme = _scheme(address)
    if scheme == "local":
        path = address[len("local://") :]
        is_archive = path.endswith(ARCHIVES)
        return None if path.startswith("/") and not is_archive else "write local:///absolute/folder, not an archive"
    if scheme not in REMOTE_SCHEMES:
        return f"{scheme}:// is not an address that Ray can fetch: write one of {', '.join(REMOTE_SCHEMES)}"
    endings = (*ARCHIVES, ".whl") if is_module else ARCHIVES
    parts = urlsplit(address)
    if not (parts.netloc + parts.path).endswith(endings):
        return f"Ray fetches {', '.join(endings)} files only: write the address of one of these"
    return None


def runtime_env_problems(env: Any, path: Path) -> Iterator[Problem]:
    """Yield what is wrong with the fields of `env` other than its packages, without showing values: secrets."""
    if not isinstance(env, dict):
        return
    yield from _near_misses(env, path)
    yield from _variables(env.get("env_vars"), (*path, "env_vars"))
    yield from env_from_problems(env, path)
    for tool in ("pip", "uv"):
        yield from _requirements(env.get(tool), tool, (*path, tool))
    conda = env.get("conda")
    if isinstance(conda, str) and conda.endswith((".yaml", ".yml")):
        yield Problem(path=(*path, "conda"), message="files are not read from here: write the environment itself")
    if env.get("excludes"):
        message = "nothing is uploaded from a working copy: write `export-ignore` lines in .gitattributes instead"
        yield Problem(path=(*path, "excludes"), message=message, at_key=True)


def _near_misses(env: dict[str, Any], path: Path) -> Iterator[Problem]:
    for key in env:
        near = did_you_mean(key, KNOWN_FIELDS) if key not in KNOWN_FIELDS and not key.startswith("_") else None
        if near is not None and abs(len(near) - len(key)) <= 4:
            yield Problem(path=(*path, key), message=f'unknown field "{key}": did you mean "{near}"?', at_key=True)


def _variables(variables: Any, path: Path) -> Iterator[Problem]:
    if variables is None:
        return
    if not isinstance(variables, dict):
        yield Problem(path=path, message="env_vars is a mapping: write NAME: text")
        return
    for name, value in variables.items():
        if not isinstance(value, str):
            yield Problem(path=(*path, name), message=f"the variable {name} must be text: write its value in quotes")


def _requirements(wanted: Any, tool: str, path: Path) -> Iterator[Problem]:
    hint = f"write {tool}: [package==1.2, ...]"
    if isinstance(wanted, dict):
        yield from _requirement_options(wanted, tool, path)
        path, wanted = (*path, "packages"), wanted.get("packages")
        hint = "write packages: [package==1.2, ...]"
        if wanted is None:
            yield Problem(path=path, message=f"packages is missing: {hint}", at_key=True)
    if isinstance(wanted, str):
        yield Problem(path=path, message=f"a requirements file is not read from here: {hint}")
    elif wanted is not None and not (isinstance(wanted, list) and all(isinstance(item, str) for item in wanted)):
        yield Problem(path=path, message=f"a list of texts is expected here: {hint}")


def _requirement_options(options: dict[str, Any], tool: str, path: Path) -> Iterator[Problem]:
    install = "pip_install_options" if tool == "pip" else "uv_pip_install_options"
    known = ("packages", f"{tool}_check", f"{tool}_version", install)
    for key in options:
        if key not in known:
            near = did_you_mean(key, known)
            message = f'did you mean "{near}"?' if near else f"write one of {', '.join(known)}"
            yield Problem(path=(*path, key), message=f'unknown field "{key}": {message}', at_key=True)
