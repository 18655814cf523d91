"""Secrets as specs name them, sealed in what a commit wants, and in documents on their way to and from Serve."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.secrets import MARK, SecretKind, SecretRef, Unreadable, concealed, ref_of, refs_of, revealed, sealed
from tests.unit.specs.commits import read

FILE = SecretRef(kind=SecretKind.FILE, name="/run/secrets/openai")
ENV = SecretRef(kind=SecretKind.ENV, name="SECRET_OF_CHAT")
KUBE = SecretRef(kind=SecretKind.KUBERNETES, name="prod/hf/token")

HEAD = "apiVersion: heliostat.dev/v1alpha1\nkind: Service\nmetadata: {name: chat}\nspec:\n"


def service(env: str, deployment_env: str = "") -> str:
    """Return a document whose runtime environment stands on line 7."""
    options = f", ray_actor_options: {{runtime_env: {deployment_env}}}" if deployment_env else ""
    return (
        f"{HEAD}  application:\n    import_path: chat:app\n    runtime_env: {env}\n"
        f"    deployments:\n      - {{name: Chat{options}}}\n"
    )


GOOD = service(
    "{env_vars: {PLAIN: a}, envFrom: {KEY: {file: /run/secrets/openai}, PASSWORD: {env: SECRET_OF_CHAT}}}",
    "{envFrom: {HF_TOKEN: {kubernetesSecret: {namespace: prod, name: hf, key: token}}}}",
)
SEALS = {FILE: FILE.sealed("aa" * 16), ENV: ENV.sealed("bb" * 16), KUBE: KUBE.sealed("cc" * 16)}


@pytest.mark.parametrize(
    ("env", "error"),
    [
        ("{envFrom: [a]}", "7:28: envFrom is a mapping: write NAME: {file: /path}"),
        ("{envFrom: {KEY: hunter2}}", "exactly one of file, env, kubernetesSecret is expected here, not a text"),
        ("{envFrom: {KEY: {file: /a, env: B}}}", "exactly one of file, env, kubernetesSecret"),
        ("{envFrom: {KEY: {file: secrets/openai}}}", "write the absolute path"),
        ("{envFrom: {KEY: {env: a-b}}}", "write the name of a variable"),
        ("{envFrom: {KEY: {vault: a}}}", 'not from "vault"'),
        ("{envFrom: {KEY: {kubernetesSecret: {name: a, key: b}}}}", "write kubernetesSecret: {namespace"),
        ("{envFrom: {KEY: {kubernetesSecret: {namespace: ../x, name: a, key: b}}}}", "write kubernetesSecret"),
        ("{envFrom: {a-b: {env: A}}}", '7:29: "a-b" cannot be the name of a variable here'),
        ("{envFrom: {HELIOSTAT_X: {env: A}}}", "cannot be the name of a variable here"),
        ("{env_vars: {KEY: a}, envFrom: {KEY: {env: A}}}", "7:49: KEY is written in env_vars too"),
        ("{env_vars: {KEY: 'heliostat-secret:file:/etc/shadow#00'}}", "secrets are written in envFrom"),
        ("{env_vars: {HELIOSTAT_SECRET_OF_KEY: a}}", "secrets are written in envFrom"),
        ("{envfrom: {KEY: {env: A}}}", 'did you mean "envFrom"'),
    ],
)
def test_a_secret_that_is_not_well_named_is_an_error_at_its_place(env: str, error: str) -> None:
    (found,) = read(service(env)).errors
    assert error in str(found)
    assert str(found).startswith("a.yaml:7:")
    assert "hunter2" not in str(found)


def test_every_secret_of_a_commit_is_found() -> None:
    desired = read(GOOD)
    assert desired.errors == ()
    assert refs_of(desired) == {FILE, ENV, KUBE}


def test_a_sealed_service_names_seals_where_its_variables_are() -> None:
    (made,) = sealed(read(GOOD), SEALS).services
    template = json.loads(made.revision.template)
    assert template["runtime_env"] == {
        "env_vars": {"PLAIN": "a", "KEY": SEALS[FILE], "PASSWORD": SEALS[ENV]},
    }
    assert template["deployments"][0]["ray_actor_options"]["runtime_env"] == {"env_vars": {"HF_TOKEN": SEALS[KUBE]}}
    assert [ref_of(seal) for seal in SEALS.values()] == [FILE, ENV, KUBE]


def test_another_value_is_another_revision_and_the_same_one_is_not() -> None:
    one, same = sealed(read(GOOD), SEALS), sealed(read(GOOD), SEALS)
    other = sealed(read(GOOD), SEALS | {ENV: ENV.sealed("dd" * 16)})
    ids = [desired.services[0].revision.id for desired in (one, same, other)]
    assert ids[0] == ids[1] != ids[2]
    assert read(GOOD).services[0].revision.id not in ids


def test_a_service_whose_secret_cannot_be_had_is_held_with_the_place() -> None:
    plain = GOOD.replace("name: chat", "name: plain").replace("envFrom", "_ignored")
    desired = sealed(read(GOOD, plain), SEALS | {FILE: Unreadable(message="cannot be read: No such file")})
    assert [service.name for service in desired.services] == ["plain"]
    assert [str(error) for error in desired.errors] == [
        "a.yaml:1:1: file /run/secrets/openai: cannot be read: No such file"
    ]


def test_a_service_without_secrets_is_left_as_it_is() -> None:
    desired = read(service("{env_vars: {PLAIN: a}}"))
    assert sealed(desired, {}) == desired


VALUES = {SEALS[FILE]: "sk-canary-1", SEALS[ENV]: "canary-2", SEALS[KUBE]: "canary-3"}


def document() -> dict[str, Any]:
    (made,) = sealed(read(GOOD), SEALS).services
    foreign = {"name": "foreign", "runtime_env": {"env_vars": {"A": "b", "SEAL": "heliostat-secret:env:HOME#00"}}}
    return {"applications": [{"name": "ours", **json.loads(made.revision.template)}, foreign]}


def test_what_goes_out_with_values_comes_back_with_seals() -> None:
    out = revealed(document(), VALUES.get)
    text = json.dumps(out)
    assert all(value in text for value in VALUES.values())
    assert out["applications"][0]["runtime_env"]["env_vars"]["KEY"] == "sk-canary-1"
    assert out["applications"][1] == document()["applications"][1], "only what we have sealed is revealed"
    back, known = concealed(json.loads(text))
    assert back == document()
    assert known == VALUES


def test_variables_that_serve_merges_stay_concealed() -> None:
    ours = revealed(document(), VALUES.get)["applications"][0]
    inner = ours["deployments"][0]["ray_actor_options"]["runtime_env"]["env_vars"]
    merged = {"env_vars": {**ours["runtime_env"]["env_vars"], **inner}}
    details = {"deployment_config": {"ray_actor_options": {"runtime_env": merged}}}
    back, _ = concealed(details)
    assert not [value for value in VALUES.values() if value in json.dumps(back)]
    assert MARK not in json.dumps(back)


def test_messages_of_applications_hide_their_secrets_and_names_stay() -> None:
    shown = {
        "applications": {
            "sk-canary-1": {
                "message": "RuntimeError: cannot log in with sk-canary-1",
                "deployed_app_config": revealed(document(), VALUES.get)["applications"][0],
            }
        }
    }
    back, _ = concealed(shown)
    (name,) = back["applications"]
    assert name == "sk-canary-1"
    assert back["applications"][name]["message"] == "RuntimeError: cannot log in with ********"


def test_what_somebody_else_changed_is_concealed_too() -> None:
    out = revealed(document(), VALUES.get)
    out["applications"][0]["runtime_env"]["env_vars"]["KEY"] = "sk-somebody-elses"
    back, _ = concealed(out)
    assert back == document()


names = st.text("ABC_", min_size=1, max_size=4)


@given(
    plain=st.dictionaries(names, st.text(max_size=5), max_size=3),
    secrets=st.dictionaries(names.map(lambda name: f"S{name}"), st.text(min_size=1, max_size=9), max_size=3),
)
def test_any_document_comes_back_as_it_was(plain: dict[str, str], secrets: dict[str, str]) -> None:
    seals = {name: SecretRef(kind=SecretKind.ENV, name=name).sealed("0" * 32) for name in secrets}
    values = {seals[name]: value for name, value in secrets.items()}
    before = {"applications": [{"name": "a", "runtime_env": {"env_vars": {**plain, **seals}}, "args": {"x": [1]}}]}
    back, known = concealed(revealed(before, values.get))
    assert back == before
    assert known == values
