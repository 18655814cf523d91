"""Weights to be staged: what may be written, what makes a revision, what the program prints."""

from __future__ import annotations

import json
import shlex
from datetime import timedelta
from typing import Any

import pytest

from specs.desired import Revision
from specs.problems import validate
from specs.service import LoadingSpec
from specs.staging import PROGRAM, Progress, command_line, read_output
from tests.unit.specs.commits import read

GOOD = ("s3://models/chat/", "gs://b/model.safetensors", "az://c/model.safetensors.index.json", "https://w.example/x")


def revision(*uris: str) -> Revision:
    spec: dict[str, Any] = {"application": {"import_path": "a:b"}}
    document = {
        "apiVersion": "heliostat.dev/v1alpha1",
        "kind": "Service",
        "metadata": {"name": "chat"},
        "spec": {**spec, "loading": {"stage": list(uris)}} if uris else spec,
    }
    desired = read(json.dumps(document))
    assert desired.errors == ()
    return desired.services[0].revision


def problems(*uris: str) -> str:
    return "; ".join(problem.message for problem in validate(LoadingSpec, {"stage": list(uris)})[1])


def test_objects_of_stores_and_servers_can_be_staged() -> None:
    assert not problems(*GOOD)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("/data/model.safetensors", "no weights that nodes could fetch"),
        ("file:///data/x", "no weights that nodes could fetch"),
        ("ftp://there/x", "no weights that nodes could fetch"),
        ("s3:///x", "no weights that nodes could fetch"),
        ("s3://b/a b", "no weights that nodes could fetch"),
        ("http://h:99999999/x", "no weights that nodes could fetch"),
        ("https://me:pass@h/x", "must not hold credentials"),
        ("https://h/x?X-Amz-Signature=abc", "must not hold credentials or a signature"),
        ("https://h/x#y", "must not hold credentials or a signature"),
        ("s3://" + "x" * 2100, "no weights that nodes could fetch"),
    ],
)
def test_what_nodes_cannot_fetch_or_git_must_not_hold_is_refused(uri: str, words: str) -> None:
    assert words in problems(uri)
    assert "pass" not in problems(uri)
    assert "abc" not in problems(uri)


def test_a_uri_is_listed_once() -> None:
    assert "listed twice" in problems(GOOD[0], GOOD[0])


def test_other_weights_are_another_revision_and_their_order_is_none() -> None:
    plain, one, two, other_way = (revision(*uris) for uris in ((), GOOD[:1], GOOD[:2], GOOD[1::-1]))
    assert len({plain.id, one.id, two.id}) == 3
    assert two.id == other_way.id
    assert two.template == plain.template
    assert two.stage == GOOD[:2]


def test_the_command_is_quoted_for_the_shell() -> None:
    line = command_line(
        ["s3://a/b; rm -rf /", "s3://c"], ["n1", "n2"], python="/opt/my python", timeout=timedelta(seconds=90)
    )
    program = ["/opt/my python", *PROGRAM.split()]
    assert shlex.split(line) == [*program, "--nodes=n1,n2", "--timeout=90", "--", "s3://a/b; rm -rf /", "s3://c"]


def test_what_the_program_says_is_told_apart_from_the_rest() -> None:
    said = read_output(
        """INFO connecting
{"progress": {"done": 1, "size": 4, "nodes": 2, "ended": 0}}
{"node": "n1", "uri": "s3://a", "staged": {"size": 1}, "error": null}
{"node": "0123456789abcdef", "uri": "s3://a", "staged": null, "error": "forbids it (403)"}
{"progress": {"done": 3, "size": 4, "nodes": 2, "ended": 1}}
{"node": "n3", "sta"""
    )
    assert said.progress == Progress(done=3, size=4, nodes=2, ended=1)
    assert [result["node"] for result in said.results] == ["n1", "0123456789abcdef"]
    assert said.failures == ("0123456789ab: forbids it (403)",)


def test_nodes_that_fail_for_one_reason_are_told_of_together() -> None:
    failed = [
        {"node": f"n{number}", "uri": uri, "staged": None, "error": f"{uri}: {why}"}
        for number, (uri, why) in enumerate(
            [("s3://a", "403"), ("s3://a", "403"), ("s3://b", "404"), ("s3://a", "403")]
        )
    ]
    said = read_output("\n".join(json.dumps(each) for each in [*failed, failed[0]]))
    assert said.failures == ("n0 and 2 more node(s): s3://a: 403", "n2: s3://b: 404")


@pytest.mark.parametrize("output", ["", "{", '{"progress": 3}', '{"progress": null}', '{"node"}', "[1]", "\x00"])
def test_output_that_is_no_progress_is_none(output: str) -> None:
    assert read_output(output).progress == Progress()
