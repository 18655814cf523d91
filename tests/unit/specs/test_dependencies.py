"""What services depend on, over all files of a commit."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.dependencies import Need, circles
from tests.unit.specs.commits import read

SERVICE = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {{name: {name}}}
spec:
  dependsOn: [{needs}]
  application: {{import_path: app:build}}
"""


def file(name: str, *needs: str) -> str:
    return SERVICE.format(name=name, needs=", ".join(needs))


def test_what_is_depended_on_is_read() -> None:
    desired = read(file("chat", "embeddings", "rank"), file("embeddings"), file("rank"))
    assert desired.errors == ()
    assert [service.depends_on for service in desired.services] == [("embeddings", "rank"), (), ()]


def test_a_name_that_no_file_has_is_no_error_of_the_file() -> None:
    assert read(file("chat", "elsewhere")).errors == ()


def test_a_circle_is_an_error_at_each_of_its_links_and_names_them_all() -> None:
    desired = read(file("a", "b"), file("b", "other", "c"), file("c", "a"), file("other"))
    assert [str(error).split(": ", 1)[0] for error in desired.errors] == ["a.yaml:5:15", "b.yaml:5:22", "c.yaml:5:15"]
    whole = "a (a.yaml:5:15) -> b (b.yaml:5:22) -> c (c.yaml:5:15) -> a"
    assert desired.errors[0].message.endswith(whole)
    assert [service.name for service in desired.services] == ["other"]


def test_who_leads_into_a_circle_is_not_part_of_it() -> None:
    desired = read(file("a", "b"), file("b", "c"), file("c", "b"))
    assert [error.path for error in desired.errors] == ["b.yaml", "c.yaml"]
    assert [service.name for service in desired.services] == ["a"]


def test_a_service_cannot_wait_for_itself() -> None:
    (error,) = read(file("a", "a")).errors
    assert error.message.endswith("a (a.yaml:5:15) -> a")


def test_a_circle_shows_even_when_one_of_its_files_is_wrong_otherwise() -> None:
    broken = file("b", "a").replace("import_path", "import_paht")
    errors = read(file("a", "b"), broken).errors
    assert any("circle" in error.message and error.path == "a.yaml" for error in errors)


def test_a_long_circle_is_named_whole() -> None:
    names = [f"service-with-a-long-name-{number}" for number in range(40)]
    desired = read(*(file(name, names[index - 1]) for index, name in enumerate(names)))
    assert len(desired.errors) == len(names)
    assert all(all(name in error.message for name in names) for error in desired.errors)


@pytest.mark.parametrize(
    ("needs", "error"), [("embeddings, embeddings", "listed twice"), ("Chat", "DNS label"), ("3", "text")]
)
def test_wrong_names_are_errors(needs: str, error: str) -> None:
    found = read(file("chat", needs)).errors
    assert [error in one.message for one in found] == [True]


def test_of_a_very_long_circle_the_middle_is_left_out() -> None:
    names = [f"s{number:03}" for number in range(120)]
    errors = read(*(file(name, names[index - 1]) for index, name in enumerate(names))).errors
    assert len(errors) == 120
    assert all("-> 70 more ->" in error.message and len(error.message) < 3000 for error in errors)


def chained(count: int, *, ring: bool) -> list[Need]:
    names = [f"s{number:06}" for number in range(count)]
    pairs = zip(names, [*names[1:], names[0]], strict=True)
    return [Need(service=a, name=b, path=a, line=1, column=1) for a, b in list(pairs)[: None if ring else -1]]


def test_no_number_of_services_takes_for_ever() -> None:
    begun = time.process_time()
    assert circles(chained(20_000, ring=False)) == ()
    ring = circles(chained(5_000, ring=True))
    assert len(ring) == 5_000
    assert len(ring[0]) == 5_000
    assert {len(circle) for circle in ring[1000:]} == {1}, "told shortly, and held all the same"
    assert time.process_time() - begun < 15


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14))
def test_who_depends_on_itself_is_found_and_nobody_else(links: list[tuple[int, int]]) -> None:
    needs = [Need(service=f"s{a}", name=f"s{b}", path="x", line=1, column=1) for a, b in links]
    reach = {f"s{n}": {need.name for need in needs if need.service == f"s{n}"} for n in range(7)}
    for _ in range(7):
        reach = {name: others.union(*(reach[other] for other in others)) for name, others in reach.items()}
    found = {circle[0].service: circle for circle in circles(needs)}
    assert found.keys() == {name for name, others in reach.items() if name in others}
    for start, circle in found.items():
        assert circle[-1].name == start
        assert all(one.name == other.service for one, other in pairwise(circle))
        assert all(need in needs for need in circle)


def test_many_of_one_name_are_told_of_some() -> None:
    errors = read(*(file("same") for _ in range(20))).errors
    assert len(errors) == 20
    assert all(error.message.count(".yaml:") == 10 and "and 9 more" in error.message for error in errors)
