"""YAML files as JSON values with their lines."""

from __future__ import annotations

import pytest

from specs.yaml_marks import MAX_BYTES, MAX_DEPTH, read_yaml


def problems(content: bytes | str) -> list[str]:
    raw = content.encode() if isinstance(content, str) else content
    file = read_yaml(raw)
    found = [*(problem for document in file.documents for problem in document.problems), *file.problems]
    return [f"{problem.line}:{problem.column}: {problem.message}" for problem in found]


def values(content: str) -> list[object]:
    file = read_yaml(content.encode())
    assert problems(content) == []
    return [document.root.plain() for document in file.documents]


def test_documents_become_json_values() -> None:
    text = """
# a comment
a: [1, 2.5, x, true, null, 'on', "0755"]
b:
  c: |-
    two
    lines
  d: >
    folded
    text
---
---
- last
...
"""
    assert values(text) == [
        {"a": [1, 2.5, "x", True, None, "on", "0755"], "b": {"c": "two\nlines", "d": "folded text\n"}},
        None,
        ["last"],
    ]


def test_anchors_aliases_and_merge_keys_are_followed() -> None:
    text = "base: &b {x: 1, y: 1}\nmore: &m {z: 3}\none: *b\ntwo: {<<: *b, y: 2}\nall: {<<: [*b, *m]}\n"
    assert values(text) == [
        {
            "base": {"x": 1, "y": 1},
            "more": {"z": 3},
            "one": {"x": 1, "y": 1},
            "two": {"x": 1, "y": 2},
            "all": {"x": 1, "y": 1, "z": 3},
        }
    ]


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    root = read_yaml("\ufeffa: 1\r\nb: 2\r\n".encode()).documents[0].root
    assert root.plain() == {"a": 1, "b": 2}
    assert root.locate(("b",)) == (2, 4)


def test_places_are_those_of_values_and_keys() -> None:
    root = read_yaml("a:\n  - b: x\n    ö: é\n  - {c: d}\n".encode()).documents[0].root
    assert root.locate(("a", 0, "b")) == (2, 8)
    assert root.locate(("a", 0, "b"), at_key=True) == (2, 5)
    assert root.locate(("a", 0, "ö")) == (3, 8)
    assert root.locate(("a", 1, "c")) == (4, 9)
    assert root.locate(("a", 1, "missing")) == (4, 5)
    assert root.locate(("missing",)) == (1, 1)
    assert root.locate(("a", 7)) == (1, 1)


def test_all_problems_of_a_document_are_listed() -> None:
    assert problems("a: on\nb: 0755\na: 2\n7: x\nd: 2026-01-01\ne: !!binary abc\nf: !mine {}\n") == [
        '1:4: YAML readers disagree about on: write true, or "on" in quotes for text',
        '2:4: YAML readers disagree about 0755: write 493, or "0755" in quotes for text',
        '3:1: the key "a" is already on line 1: keep one of the two',
        '4:1: keys must be text: write "7" in quotes',
        '5:4: 2026-01-01 would be a date, which JSON does not have: quote it ("2026-01-01")',
        "6:4: !!binary does not fit here: only plain JSON values are allowed; leave the tag out",
        "7:4: !mine is not allowed: only plain lists and mappings are; leave the tag out",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a:\n\tb: 1\n", "2:1: not valid YAML: YAML does not allow tabs for indentation: use spaces"),
        ("a: b: c\n", "1:5: not valid YAML: a `key: value` is not expected here"),
        ("a: 'open\n", "2:1: not valid YAML: the file ends inside a value: a quote or bracket is not closed"),
        ("a: [1\nb: 2\n", "2:2: not valid YAML: a `,` or `]` is missing in this list"),
        ("a: @x\n", "1:4: not valid YAML: this character cannot start a value: quote the text"),
        ("a: *nobody\n", "1:4: the alias *nobody has no anchor &nobody above it"),
        ("a: &x [*x]\n", "1:8: the alias *x stands inside the value that it names"),
        ("? [a]\n: 1\n", "1:3: keys must be text: a list or mapping cannot be a key"),
        ("a: &x 1\n*x : 2\n", "2:1: keys must be text: an alias cannot be a key"),
        ("a: {<<: 7}\n", "1:5: `<<` takes a mapping or a list of mappings, such as *anchor"),
        (b"ok: 1\nb: \xff\n", "2:4: the file is not UTF-8 text: save it as UTF-8"),
        ("ok: 1\nb: '\x07'\n", "2:5: control character U+0007"),
        (b"a: 1\n" + b"#" * MAX_BYTES, "1:1: the file is larger than 1024 KiB: split it into several files"),
        ("[" * 900, f"1:{MAX_DEPTH + 1}: nested deeper than {MAX_DEPTH} levels: make it flatter"),
        ("%YAML 9.9\n---\na: 1\n", "1:1: not valid YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_where_and_what_to_do(content: bytes | str, problem: str) -> None:
    found = problems(content)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_a_billion_laughs_cost_nothing() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "the file stands for more than 100000 values: make it smaller" in problems("\n".join(lines))[0]


def test_aliases_cannot_nest_deeper_than_brackets() -> None:
    half = "[" * 30 + "]" * 30
    deep = f"a: &a {half}\nb: {'[' * 30}*a{']' * 30}\n"
    assert problems(deep) == [f"2:34: nested deeper than {MAX_DEPTH} levels: make it flatter"]


def test_documents_before_a_syntax_error_are_still_read() -> None:
    file = read_yaml(b"a: 1\n---\nb: [\n")
    assert [document.root.plain() for document in file.documents] == [{"a": 1}]
    assert len(file.problems) == 1


def test_absurd_nesting_is_refused_in_our_words_whichever_limit_is_met_first() -> None:
    """PyYAML has a limit of its own since 6.0.4, and no fixed distance to which it reads ahead."""
    (found,) = problems("[" * 500_000)
    assert found.endswith(f": nested deeper than {MAX_DEPTH} levels: make it flatter")
