"""What is read of a commit is limited, however few bytes multiply it; and every reader stops at the same place."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

import specs.library
import specs.overlays
from specs.merging import merge
from specs.parse import SpecReader, read_desired
from specs.yaml_marks import Node, read_yaml
from tests.unit.specs.commits import COMMIT, KnownFolders, counting_parses

HEAD = "apiVersion: heliostat.dev/v1alpha1\n"


def a_base(name: str, keys: int, size: int = 1) -> bytes:
    args = "".join(f"      {name}{index}: {'v' * size}\n" for index in range(keys))
    return f"{HEAD}kind: ServiceBase\nspec:\n  application:\n    import_path: app:build\n    args:\n{args}".encode()


def a_service(name: str, *bases: str) -> bytes:
    return f"{HEAD}kind: Service\nmetadata: {{name: {name}}}\nbases: [{', '.join(bases)}]\n".encode()


def services_on_bases(services: int, bases: int, keys: int) -> dict[str, bytes]:
    names = [f"b{index}" for index in range(bases)]
    files = {f"base/{name}.yaml": a_base(name, keys) for name in names}
    taken = [f"../base/{name}.yaml" for name in names]
    return files | {f"s/{index:03}.yaml": a_service(f"s{index}", *taken) for index in range(services)}


def test_a_base_is_parsed_once_for_all_who_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = counting_parses(monkeypatch, specs.library)
    found = read_desired(COMMIT, services_on_bases(services=20, bases=10, keys=200), KnownFolders())
    assert len(found.services) == 20
    assert len(parsed) == 10


def test_what_is_kept_at_hand_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    files = services_on_bases(services=4, bases=10, keys=200)
    before = read_desired(COMMIT, files, KnownFolders())
    monkeypatch.setattr(specs.library, "MOST_KEPT", 500)
    parsed = counting_parses(monkeypatch, specs.library)
    assert read_desired(COMMIT, files, KnownFolders()) == before
    assert len(parsed) == 40


def test_bases_that_multiply_end_at_a_limit_with_the_place_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[int] = []

    def counted(under: Node, over: Node) -> Node:
        laid.append(over.values)
        return merge(under, over)

    monkeypatch.setattr(specs.library, "MOST_VALUES", 20_000)
    monkeypatch.setattr(specs.overlays, "merge", counted)
    found = read_desired(COMMIT, services_on_bases(services=100, bases=10, keys=100), KnownFolders())
    assert 10 <= len(found.services) < 20
    assert sum(laid) < 20_000
    first, *others = found.errors
    assert first.path == f"s/{len(found.services):03}.yaml"
    assert (first.line, first.column > 9) == (4, True)
    assert "more than 1,000,000 values" in first.message
    assert "take fewer or smaller bases, or divide the folder" in first.message
    assert [error.path for error in others] == [f"s/{index:03}.yaml" for index in range(len(found.services) + 1, 100)]


def test_files_without_bases_end_at_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs.library, "MOST_VALUES", 1000)
    files = {f"{index:02}.yaml": a_base(f"b{index}", 100).replace(b"ServiceBase", b"Service") for index in range(12)}
    found = read_desired(COMMIT, files, KnownFolders())
    assert {error.path for error in found.errors if "(--path)" in error.message} == {"10.yaml", "11.yaml"}


def test_a_file_of_many_bases_counts_little_where_one_of_them_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    many = b"---\n".join(
        a_base(f"b{index}", 20).replace(
            b"kind: ServiceBase\n", f"kind: ServiceBase\nmetadata: {{name: b{index}}}\n".encode()
        )
        for index in range(20)
    )
    files = {"base/all.yaml": many}
    files |= {f"s/{index:03}.yaml": a_service(f"s{index}", "../base/all.yaml#b7") for index in range(40)}
    monkeypatch.setattr(specs.library, "MOST_VALUES", 9_000)
    assert read_desired(COMMIT, files, KnownFolders()).errors == ()
    monkeypatch.setattr(specs.library, "MOST_VALUES", 3_000)
    assert read_desired(COMMIT, files, KnownFolders()).errors


def test_one_document_is_laid_on_as_much_as_one_file_may_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs.overlays, "MAX_VALUES", 130)
    files = services_on_bases(services=1, bases=4, keys=40)
    (error,) = read_desired(COMMIT, files, KnownFolders()).errors
    assert str(error).startswith("s/000.yaml:4:60: what a document takes stands for more than 130 values")


def test_a_long_text_counts_for_its_length_however_often_an_alias_names_it() -> None:
    text = f"{HEAD}kind: Service\nmetadata: {{name: a}}\nspec:\n  application:\n    import_path: app:build\n    args:\n"
    text += f"      long: &long {'v' * 100_000}\n      many: [{', '.join(['*long'] * 200)}]\n"
    (error,) = read_desired(COMMIT, {"a.yaml": text.encode()}, KnownFolders()).errors
    assert "stands for more than 100000 values" in error.message


def test_a_long_key_counts_for_its_length_as_well() -> None:
    few = read_yaml(f"a: &a {{{'k' * 900}: 1}}\nb: [*a, *a]\n".encode()).values
    assert few > 3 * 9


@pytest.mark.parametrize("seed", range(6))
def test_a_reader_that_knows_most_files_stops_where_a_fresh_one_does(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(specs.library, "MOST_VALUES", 600)
    dice, reader, files = random.Random(seed), SpecReader(), services_on_bases(services=6, bases=3, keys=10)
    cut = set[bool]()
    for turn in range(12):
        which = dice.randrange(6)
        name = f"b{which}"
        if dice.random() < 0.5:
            files[f"base/{name}.yaml"] = a_base(name, dice.choice([1, 10, 40]), dice.choice([1, 300]))
        else:
            files[f"s/{which:03}.yaml"] = a_service(f"s{which}", *["../base/b0.yaml"] * dice.choice([1, 1, 2, 6]))
        commit = replace(COMMIT, sha=f"{turn:040x}")
        found = reader.read(commit, files, KnownFolders()).desired
        assert found == read_desired(commit, files, KnownFolders())
        cut.add(any("(--path)" in error.message for error in found.errors))
    assert seed or cut == {False, True}
