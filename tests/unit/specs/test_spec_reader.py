"""Reading commit after commit gives what reading each anew gives, and parses only what differs."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

import specs.parse
from specs.cluster_policy import ClusterPolicy
from specs.parse import SpecReader, is_spec_file, read_desired
from specs.rendered import rendered
from specs.service import Service
from tests.unit.specs.commits import COMMIT, KnownFolders, counting_parses

GOOD = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {name: NAME}
spec:
  application: {import_path: "app:build", args: {size: SIZE}, runtime_env: {working_dir: app}}
  rollout: {maxSurge: 2, maxUnavailable: 10%, minReady: 90s, steps: [{setWeight: 5}, {pause: {duration: 1m}}]}
"""
TEXTS = [
    GOOD,
    GOOD.replace("args", "orgs"),
    GOOD.replace("name: NAME", "name: same"),
    GOOD.replace("spec:", "spec:\n  dependsOn: [a0]"),
    "kind: Else\n",
    "apiVersion: heliostat.dev/v1alpha1\nkind: ClusterPolicy\nmetadata: {name: p}\n"
    "spec: {selfHeal: {enabled: false}}\n",
    "apiVersion: heliostat.dev/v1alpha1\n  broken",
]


@pytest.mark.parametrize("seed", range(15))
def test_a_reader_says_what_a_fresh_one_would(seed: int) -> None:
    dice, reader, files = random.Random(seed), SpecReader(), dict[str, bytes]()
    for turn in range(12):
        path = f"a{dice.randrange(5)}.yaml"
        text = dice.choice(TEXTS).replace("NAME", path[:2]).replace("SIZE", str(dice.randrange(3)))
        files = {**files, path: text.encode()}
        if dice.random() < 0.2:
            del files[path]
        commit = replace(COMMIT, sha=f"{turn:040x}")
        folders = KnownFolders({"app": f"app{dice.randrange(2)}"} if dice.random() < 0.8 else {})
        assert reader.read(commit, files, folders).desired == read_desired(commit, files, folders)


def test_only_what_differs_is_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = counting_parses(monkeypatch, specs.parse)
    reader = SpecReader()
    files = {f"a{n}.yaml": GOOD.replace("NAME", f"a{n}").encode() for n in range(9)}
    assert all(reader.is_spec_file(content) for content in files.values())
    reader.read(COMMIT, files, KnownFolders())
    assert len(parsed) == 9
    parsed.clear()
    files["a3.yaml"] = files["a3.yaml"].replace(b"SIZE", b"7")
    reader.read(COMMIT, files, KnownFolders())
    assert parsed == [files["a3.yaml"]]
    parsed.clear()
    assert len(reader.read(COMMIT, files, KnownFolders({"app": "newer"})).desired.services) == 9
    assert len(parsed) == 9


def test_a_reader_knows_spec_files_as_the_function_does() -> None:
    reader = SpecReader()
    for text in TEXTS:
        assert reader.is_spec_file(text.encode()) is is_spec_file(text.encode())


@pytest.mark.parametrize("with_defaults", [True, False])
def test_a_rendered_document_reads_back_as_itself(with_defaults: bool) -> None:
    model = SpecReader().read(
        COMMIT, {"a.yaml": GOOD.replace("SIZE", "1").replace("NAME", "a").encode()}, KnownFolders()
    )
    (service,) = model.written.values()
    plain = rendered(service, with_defaults=with_defaults)
    assert Service.model_validate(plain) == service
    assert plain["spec"]["rollout"]["maxUnavailable"] == "10%"
    assert plain["spec"]["rollout"]["minReady"] == "1m30s"


def test_a_rendered_policy_reads_back_as_itself() -> None:
    text = TEXTS[5].replace("selfHeal: {enabled: false}", "windows: [{allow: Mon-Fri 09:00-17:00}]")
    policy = SpecReader().read(COMMIT, {"a.yaml": text.encode()}, KnownFolders()).policy
    assert policy is not None
    assert ClusterPolicy.model_validate(rendered(policy, with_defaults=True)) == policy
