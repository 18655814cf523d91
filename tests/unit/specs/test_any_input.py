"""Whatever is pushed, reading it lists problems with real places; it never breaks."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from specs.parse import is_spec_file, read_desired
from specs.yaml_marks import lines_of
from tests.unit.specs.commits import COMMIT, KnownFolders, read
from tests.unit.specs.test_parse import CHAT, FULL, POLICY
from tests.unit.specs.test_revision import FULL as APPLICATION
from tests.unit.specs.test_revision import shuffled

HEAD = "apiVersion: heliostat.dev/v1alpha1\nkind: Service\n"

KEYS = """name route steps pause setWeight spec metadata rollout application deployments duration apiVersion kind prune
num_replicas autoscaling_config min_replicas max_replicas runtime_env working_dir py_modules env_vars pip import_path
maxSurge maxUnavailable ray_actor_options resources placement_group_bundles"""

VALUES = "chat /chat 1 0 -1 1.5 a:b 25% 10m Service ClusterPolicy heliostat.dev/v1alpha1 . .. /x app on null"

WORDS = st.sampled_from([*KEYS.split(), *VALUES.split(), ""])

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5)

TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=5),
    max_leaves=15,
)


def check(content: bytes) -> None:
    """Read `content` and look at every place that an error names."""
    desired = read_desired(COMMIT, {"a.yaml": content}, KnownFolders())
    text = content.decode("utf-8", errors="replace").removeprefix("\ufeff")
    lines = lines_of(text)
    for error in desired.errors:
        assert error.message
        assert "\n" not in error.message
        assert 1 <= error.line <= len(lines) + 1
        assert 1 <= error.column <= (len(lines[error.line - 1]) if error.line <= len(lines) else 0) + 1, error
    assert not (desired.errors and desired.services)
    if desired.errors or desired.services:
        assert is_spec_file(content)


@given(st.binary(max_size=200))
def test_any_bytes_after_a_head_are_survived(content: bytes) -> None:
    check(HEAD.encode() + content)


@given(st.text(alphabet="{}[]:,-&*!|>'\"%@`#?~ \n\tabc01.", max_size=120))
@example("<<: *a")
@example("? - a\n: b")
def test_any_punctuation_after_a_head_is_survived(text: str) -> None:
    check((HEAD + text).encode())
    check((HEAD + "spec:\n  " + text.replace("\n", "\n  ")).encode())


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(["metadata", "spec", "x"]), TREES, max_size=3))
def test_any_tree_is_survived(tree: dict[str, Any]) -> None:
    check((HEAD + yaml.safe_dump(tree, allow_unicode=True)).encode(errors="replace"))


@settings(max_examples=80)
@given(st.data())
def test_any_value_in_any_place_of_a_good_spec_is_survived(data: st.DataObject) -> None:
    whole = {**yaml.safe_load(data.draw(st.sampled_from([FULL, CHAT, POLICY])))}
    if whole["kind"] == "Service" and data.draw(st.booleans()):
        whole["spec"]["application"] = json.loads(json.dumps(APPLICATION))
    owner: Any = whole
    while True:
        keys = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(owner[key], dict | list) and owner[key]) or data.draw(st.integers(0, 3)) == 0:
            break
        owner = owner[key]
    owner[key] = data.draw(TREES)
    check(yaml.safe_dump(whole, allow_unicode=True, sort_keys=False).encode(errors="replace"))


STYLES = st.fixed_dictionaries(
    {
        "default_flow_style": st.sampled_from([True, False, None]),
        "default_style": st.sampled_from([None, '"']),
        "indent": st.integers(2, 8),
        "width": st.integers(20, 200),
        "line_break": st.sampled_from(["\n", "\r\n"]),
        "explicit_start": st.booleans(),
        "allow_unicode": st.booleans(),
    }
)


@given(STYLES, st.randoms(use_true_random=False))
def test_neither_style_nor_order_nor_comments_move_a_revision(style: dict[str, Any], random: Any) -> None:
    document = {
        "apiVersion": "heliostat.dev/v1alpha1",
        "kind": "Service",
        "metadata": {"name": "chat"},
        "spec": {"application": {**APPLICATION, "args": {"greeting": "grüße, on: 0755 # no comment", "n": "1_000"}}},
    }
    text = yaml.safe_dump(shuffled(document, random), sort_keys=False, **style)
    commented = "# a comment\n" + text + "# the end\n"
    expected = read(json.dumps(document))
    found = read(commented)
    assert found.errors == ()
    assert found.services[0].revision == expected.services[0].revision


def test_anchors_do_not_move_a_revision() -> None:
    plain = CHAT + "    args: {a: {x: 1}, b: {x: 1}}\n"
    anchored = CHAT + "    args: {a: &a {x: 1}, b: *a}\n"
    assert read(plain).services[0].revision == read(anchored).services[0].revision
