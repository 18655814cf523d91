"""Scalars mean JSON values, or nothing that YAML readers disagree about."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from specs.yaml_scalars import plain_scalar, tagged_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("False", False), ("0", 0), ("-7", -7), ("+7", 7),
        ("0x1F", 31), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("1.5e+3", 1500.0), ("chat", "chat"), ("nope", "nope"),
        ("y", "y"), ("truth", "truth"), ("1.2.3", "1.2.3"), ("8080:80", "8080:80"), ("10.0.0.1:80", "10.0.0.1:80"),
        ("2026", 2026), ("v1", "v1"), ("1h30m", "1h30m"), ("25%", "25%"), ("-", "-"), (".", "."), ("+", "+"),
        ("9223372036854775807", 2**63 - 1),
    ],
)  # fmt: skip
def test_a_plain_scalar_has_its_json_value(text: str, value: object) -> None:
    found = plain_scalar(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("on", 'write true, or "on" in quotes'),
        ("No", 'write false, or "No" in quotes'),
        ("0755", 'write 493, or "0755" in quotes'),
        ("0o17", "write 15,"),
        ("-017", "write -15,"),
        ("08", "write 8,"),
        ("0b101", "write 5,"),
        ("-0x1f", "write -31,"),
        ("1_000", "write 1000,"),
        ("1_000.5", "write 1000.5,"),
        ("1e3", "write 1000.0,"),
        ("-.5", "write -0.5,"),
        ("1e-5", "write 1.0e-05,"),
        ("1.5e22", "write 1.5e+22,"),
        ("12:30", 'quote it ("12:30")'),
        ("2026-11-23", 'quote it ("2026-11-23")'),
        ("2026-11-23T10:00:00Z", "quote it"),
        (".nan", "write a number, or quote it"),
        ("-.inf", "write a number, or quote it"),
        ("99999999999999999999", "too large for a number: quote it"),
        ("9" * 9000, "too large for a number: quote it"),
        ("1.0e+999", "too large for a number: quote it"),
    ],
)
def test_an_ambiguous_scalar_is_refused_and_says_what_to_write(text: str, instead: str) -> None:
    with pytest.raises(ValueError, match=re.escape(instead)) as caught:
        plain_scalar(text)
    assert len(str(caught.value)) < 200


def test_an_explicit_tag_is_followed() -> None:
    assert tagged_scalar("tag:yaml.org,2002:str", "0755") == "0755"
    assert tagged_scalar("!", "on") == "on"
    assert tagged_scalar("tag:yaml.org,2002:int", "7") == 7
    assert tagged_scalar("tag:yaml.org,2002:float", "7") == 7


@pytest.mark.parametrize("tag", ["tag:yaml.org,2002:binary", "!Secret", "tag:yaml.org,2002:timestamp"])
def test_a_tag_that_json_does_not_know_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="leave the tag out"):
        tagged_scalar(tag, "abc")


@given(st.text(alphabet="0123456789+-._:eExobn TfaluyYsNOF~Z", max_size=12))
def test_what_is_accepted_reads_as_in_yaml_1_1(text: str) -> None:
    """Serve's own config files go through such a reader: nothing may mean something else there."""
    stripped = text.strip()
    try:
        event = [event for event in yaml.parse(f"- {stripped}\n") if isinstance(event, yaml.ScalarEvent)]
    except yaml.YAMLError:
        return
    if len(event) != 1 or event[0].value != stripped:
        return
    try:
        found = plain_scalar(stripped)
    except ValueError:
        return
    assert json.dumps(found) == json.dumps(yaml.safe_load(f"- {stripped}\n")[0])


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    with suppress(ValueError):
        found = plain_scalar(text)
        assert json.loads(json.dumps(found)) == found
