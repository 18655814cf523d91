"""`heliostat validate`: check spec files offline, from the working copy."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from specs.desired import Commit, Desired, SpecError, Unread, Unreadable
from specs.parse import SpecReader, Specs
from specs.unread import SPEC_SUFFIXES, is_lfs_pointer

_APP_HANDLE = re.compile(r"\bget_app_handle\(")

APP_HANDLE_WARNING = (
    "warning: get_app_handle does not find other services, their application names change with each revision: "
    "send requests to the address in HELIOSTAT_GATEWAY_URL"
)


@dataclass(frozen=True, kw_only=True)
class WorkingCopy:
    """Folders as they are on disk, for `specs.parse.PackageIndex`.

    The hashes stand for names, not content: they tell folders apart, and never leave this command.
    """

    root: Path

    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        """Return a stand-in for the content hash of a folder that holds at least one file, else None."""
        folder = self.root / path
        if not folder.is_dir() or not any(file.is_file() for file in folder.rglob("*")):
            return None  # Git knows no empty folders.
        return hashlib.sha256(f"{path}:{keep_folder}".encode()).hexdigest()[:40]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was checked and found. Paths are as a terminal in the current folder links them."""

    files: int
    services: tuple[str, ...]
    errors: tuple[SpecError, ...]
    warnings: tuple[SpecError, ...] = ()
    without_specs: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the JSON that `-o json` prints."""
        return {
            "valid": not self.errors,
            "files": self.files,
            "services": list(self.services),
            "errors": [_as_json(error) for error in self.errors],
            "warnings": [_as_json(warning) for warning in self.warnings],
        }

    def summary(self) -> str:
        """Return one line for people."""
        counted = f"{_plural(self.files, 'spec file')}, {_plural(len(self.services), 'service')}"
        if self.errors:
            return f"{_plural(len(self.errors), 'problem')} in {counted}"
        return f"{counted}: no problems"


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def validate(paths: tuple[Path, ...], output: str) -> None:
    """Check spec files offline.

    PATHS are files or folders; of a folder all YAML files below are checked, dot-folders left out. Prints one
    `file:line:column: message` per problem; exits with 0 when there are none, 1 otherwise. Warnings go to stderr.
    """
    verdict = check(paths)
    if output == "json":
        click.echo(json.dumps(verdict.document(), indent=2))
    else:
        for error in verdict.errors:
            click.echo(str(error))
    for warning in verdict.warnings:
        click.echo(str(warning), err=True)
    for name in verdict.without_specs:
        click.echo(f"{name}: no Heliostat document here (apiVersion: heliostat.dev/v1alpha1)", err=True)
    click.echo(verdict.summary(), err=True)
    if verdict.errors:
        raise click.exceptions.Exit(1)


def check(paths: Sequence[Path]) -> Verdict:
    """Check files and folders; each is read relative to the repository, or else the folder, that holds it."""
    gathered = _gathered(paths)
    wanted = {root: specs.desired for root, specs in gathered.read().items()}
    warnings = {found for root, desired in wanted.items() for found in handle_warnings(root, desired)}
    return Verdict(
        files=sum(len(files) for files in gathered.files.values()),
        services=tuple(sorted(service.name for desired in wanted.values() for service in desired.services)),
        errors=tuple(sorted(_from_here(root, error) for root, desired in wanted.items() for error in desired.errors)),
        warnings=tuple(sorted(warnings.union(gathered.elsewhere))),
        without_specs=tuple(gathered.without_specs),
    )


def _on_disk(root: Path) -> Callable[[str], bytes | None]:
    """Return how to read files below `root`; not links, wherever they lead, as a commit is read."""

    def read(path: str) -> bytes | None:
        file = root / path
        is_own = file.is_file() and file.resolve() == root.resolve() / path
        return file.read_bytes() if is_own else None

    return read


def repository_of(path: Path) -> Path:
    """Return the root of the Git working copy around `path`; without one the folder itself, or the file's."""
    resolved = path.resolve()
    folder = resolved if resolved.is_dir() else resolved.parent
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)


def yaml_files(path: Path) -> Iterator[Path]:
    """Yield `path` itself when it is a file, else all YAML files below it outside of dot-folders, in order."""
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files) if name.endswith(SPEC_SUFFIXES))


def read_paths(paths: Sequence[Path]) -> tuple[tuple[Specs, ...], tuple[SpecError, ...]]:
    """Return what files and folders say, and what is wrong with them."""
    found = _gathered(paths).read()
    errors = sorted(_from_here(root, error) for root, specs in found.items() for error in specs.desired.errors)
    return tuple(found.values()), tuple(errors)


@dataclass(kw_only=True)
class _Gathered:
    """The spec files below some paths by the repository that holds them, and what is no such file."""

    reader: SpecReader = field(default_factory=SpecReader)
    files: dict[Path, dict[str, bytes]] = field(default_factory=dict)
    links: dict[Path, list[Unread]] = field(default_factory=dict)
    elsewhere: list[SpecError] = field(default_factory=list)
    """Warnings of specs in repositories inside of the one that is checked."""
    without_specs: list[str] = field(default_factory=list)

    def take(self, file: Path, root: Path, *, is_named: bool) -> None:
        """Look at one file below `root`; `is_named` when it was asked for itself."""
        is_link = file.is_symlink() and (root / ".git").exists()
        is_here = file.is_file() and (not is_link or file.resolve().is_relative_to(root))
        content = file.read_bytes() if is_here else b""  # A link may lead to what has no end.
        is_spec = is_lfs_pointer(content) or self.reader.is_spec_file(content)
        place = file.parent.resolve() / file.name
        inner = _inner_repository(place, root)
        if is_link:
            if is_spec or not is_here:
                link = Unread(path=place.relative_to(root).as_posix(), kind=Unreadable.LINK, is_spec=True)
                self.links.setdefault(root, []).append(link)
        elif is_spec and inner is not None:
            text = f"warning: this is in another repository ({os.path.relpath(inner)}), whose files no commit here has"
            self.elsewhere.append(SpecError(path=os.path.relpath(file), line=1, column=1, message=text))
        elif is_spec:
            self.files.setdefault(root, {})[place.relative_to(root).as_posix()] = content
        elif is_named:
            self.without_specs.append(str(file))

    def read(self) -> dict[Path, Specs]:
        """Return what they say, by repository."""
        return {
            root: self.reader.read(
                _WORKING_COPY,
                self.files.get(root, {}),
                WorkingCopy(root=root),
                _on_disk(root),
                tuple(self.links.get(root, ())),
            )
            for root in sorted({*self.files, *self.links})
        }


def _inner_repository(file: Path, root: Path) -> Path | None:
    """Return the submodule, or another repository, that a file below `root` belongs to."""
    between = (parent for parent in file.parents if parent != root and parent.is_relative_to(root))
    return next((parent for parent in between if (parent / ".git").exists()), None)


def _gathered(paths: Sequence[Path]) -> _Gathered:
    gathered = _Gathered()
    for path in paths:
        root = repository_of(path if path.is_dir() else path.parent)
        for file in yaml_files(path):
            gathered.take(file, root, is_named=file == path)
    return gathered


def handle_warnings(root: Path, desired: Desired) -> Iterator[SpecError]:
    """Yield a warning for each call in the services' code that works in plain Serve and not here."""
    folders = {package.path for service in desired.services for package in service.revision.packages}
    for folder in sorted(folders):
        for file in sorted((root / folder).rglob("*.py")):
            if file.is_symlink() or not file.is_file():
                continue  # What a link in a package leads to is in the package itself, or refused.
            for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
                if (found := _APP_HANDLE.search(line)) and not line.lstrip().startswith(("#", "def ")):
                    yield SpecError(
                        path=os.path.relpath(file),
                        line=number,
                        column=found.start() + 1,
                        message=APP_HANDLE_WARNING,
                    )


def _from_here(root: Path, error: SpecError) -> SpecError:
    return replace(error, path=os.path.relpath(root / error.path))


def _as_json(problem: SpecError) -> dict[str, Any]:
    return {"path": problem.path, "line": problem.line, "column": problem.column, "message": problem.message}


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_WORKING_COPY = Commit(
    sha="0" * 40, branch="", author="", subject="the working copy", committed_at=datetime(1970, 1, 1, tzinfo=UTC)
)
"""There is no commit yet."""
