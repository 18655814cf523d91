"""Label selectors are read as Ray reads them, whatever is written there, and without end for none."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.selectors import is_choice, is_label_key
from tests.unit.specs.commits import read

LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
RAYS = re.compile(rf"(?:(?=.{{1,253}}/){LABEL}(?:\.{LABEL})*/)?{LABEL}")
"""Ray 2.60's own pattern; takes for ever where dots are many."""


@given(st.text("aB1._-/!", max_size=14))
def test_a_name_is_one_where_it_is_to_ray(text: str) -> None:
    assert is_label_key(text) == (RAYS.fullmatch(text) is not None)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("ray.io/zone", True),
        ("a" * 63, True),
        ("a" * 64, False),
        (f"{'a' * 63}.{'b' * 63}/x", True),
        (f"{'a' * 64}.b/x", False),
        (f"a..{'b' * 60}/x", True),
        (f"a..{'b' * 61}/x", False),
        (".".join(["a" * 62] * 4) + "/x", True),
        (".".join(["a" * 63] * 4) + "/x", False),
        ("/x", False),
        ("a/b/c", False),
        ("a/", False),
    ],
)
def test_lengths_are_as_rays(text: str, fits: bool) -> None:
    assert is_label_key(text) is fits
    assert (RAYS.fullmatch(text) is not None) is fits


def test_no_name_and_no_choice_takes_for_ever() -> None:
    begun = time.process_time()
    for count in (40, 126, 100_000):
        assert not is_label_key(".".join(["a"] * count) + "/!")
        assert not is_choice(f"in({', '.join(['a'] * count)}!")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("odd", [".".join(["a"] * 120) + "/!", ".".join(["a"] * 120)])
def test_a_spec_with_such_a_name_is_told_so(odd: str) -> None:
    text = f"""apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {{name: chat}}
spec:
  application:
    import_path: app:build
    deployments: [{{name: Chat, ray_actor_options: {{label_selector: {{"{odd}": x}}}}}}]
"""
    (error,) = read(text).errors
    assert "is not a label's name" in error.message


def test_a_file_that_is_no_yaml_is_looked_through_once() -> None:
    begun = time.process_time()
    assert read("apiVersion: heliostat.dev/v1alpha1\n" + "\n" + " " * 900_000 + "[").errors
    assert read("# heliostat.dev\n" + " " * 900_000 + "[").errors == ()
    assert time.process_time() - begun < 10
