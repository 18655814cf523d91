"""A commit and its folders, for tests of what specs say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import ModuleType

import pytest

from specs.desired import Commit, Desired
from specs.parse import read_desired
from specs.yaml_marks import YamlFile, read_yaml

COMMIT = Commit(
    sha="4f2c" * 10, branch="main", author="Ada", subject="Chat", committed_at=datetime(2026, 11, 23, tzinfo=UTC)
)


@dataclass(frozen=True)
class KnownFolders:
    """A package index of these folders; content by path, to tell trees apart."""

    folders: Mapping[str, str] = field(default_factory=lambda: {"": "root", "app": "app", "lib": "lib"})

    def package_id(self, path: str, *, keep_folder: bool) -> str | None:
        if path not in self.folders:
            return None
        text = f"{self.folders[path]}:{keep_folder and path}"
        return hashlib.sha256(text.encode()).hexdigest()[:40]


def counting_parses(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[bytes]:
    """Let a module's reading of YAML be counted; return the list of what it has parsed."""
    parsed: list[bytes] = []

    def counted(content: bytes) -> YamlFile:
        parsed.append(content)
        return read_yaml(content)

    monkeypatch.setattr(module, "read_yaml", counted)
    return parsed


def read(*texts: str, folders: KnownFolders | None = None) -> Desired:
    """Read texts as the files a.yaml, b.yaml, ... of one commit."""
    files = {f"{chr(ord('a') + index)}.yaml": text.encode() for index, text in enumerate(texts)}
    return read_desired(COMMIT, files, folders or KnownFolders())
