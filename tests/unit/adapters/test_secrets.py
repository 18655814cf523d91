"""Where secrets are read from, what limits it, and that nothing above Ray's client ever sees one."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from pydantic import TypeAdapter

from reconciler.adapters.jobs import RayJobs
from reconciler.adapters.kubernetes_secrets import KubernetesApi, KubernetesApiSecrets
from reconciler.adapters.sealed_rest import APPLICATIONS, SealedRest
from reconciler.adapters.secrets import SecretLimits, Vault
from reconciler.adapters.serve import RayServe
from reconciler.errors import Retry, Stalled
from reconciler.ports import JobOrder
from reconciler.settings import Secret, Settings
from specs.canonical import canonical_json
from specs.effects import PutServeConfig, ServeApplication
from specs.secrets import MARK, SecretKind, SecretRef, Unreadable, hidden
from tests.local_http import JSON, Answering, listening
from tests.origin import Origin
from tests.sim.fake_dashboard import FakeDashboard
from tests.watched import Watched

KEY = bytes(range(32))
CANARY = "canary-5f3c-value"


def file_ref(path: Path) -> SecretRef:
    return SecretRef(kind=SecretKind.FILE, name=str(path))


def vault(folder: Path, key: bytes = KEY, **limits: Any) -> Vault:
    return Vault(SecretLimits(folders=(folder,), **limits), key, environ={"SECRET_A": CANARY, "HOME": "/root"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "secrets"
    made.mkdir()
    return made


def seal(kept: Vault, ref: SecretRef) -> str | Unreadable:
    return kept._seal(ref)


def test_a_file_below_an_allowed_folder_is_read(folder: Path) -> None:
    (folder / "a").write_text(f"{CANARY}\n")
    kept = vault(folder)
    made = seal(kept, file_ref(folder / "a"))
    assert isinstance(made, str)
    assert CANARY not in made
    assert kept.value_of(made) == CANARY


def test_what_kubernetes_mounts_is_read_through_its_links(folder: Path) -> None:
    (folder / "..data").mkdir()
    (folder / "..data" / "a").write_text(CANARY)
    (folder / "a").symlink_to("..data/a")
    assert isinstance(seal(vault(folder), file_ref(folder / "a")), str)


def test_nothing_outside_of_the_folder_is_read(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text(CANARY)
    (folder / "link").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    (folder / "large").write_text("x" * 40_000)
    (folder / "binary").write_bytes(b"\xff\xfe")
    (folder / "empty").write_text("\n")
    (folder / "zero").write_bytes(b"a\0b")
    kept = vault(folder)
    for name, why in {
        "link": "do not allow files there",
        "../outside": "do not allow files there",
        "pipe": "not a file",
        ".": "do not allow|not a file|cannot be read",
        "none": "No such file",
        "large": "larger than",
        "binary": "no UTF-8",
        "empty": "empty",
        "zero": "zero byte",
    }.items():
        found = seal(kept, SecretRef(kind=SecretKind.FILE, name=f"{folder}/{name}"))
        assert isinstance(found, Unreadable), name
        assert any(part in found.message for part in why.split("|")), (name, found)
    sibling = tmp_path / "secrets-of-others"
    sibling.mkdir()
    (sibling / "a").write_text(CANARY)
    assert isinstance(seal(kept, file_ref(sibling / "a")), Unreadable)


def test_a_variable_is_read_by_an_allowed_prefix_only(folder: Path) -> None:
    kept = vault(folder, prefixes=("SECRET_",))
    assert isinstance(seal(kept, SecretRef(kind=SecretKind.ENV, name="SECRET_A")), str)
    for name in ("HOME", "SECRET_B"):
        assert isinstance(seal(kept, SecretRef(kind=SecretKind.ENV, name=name)), Unreadable)
    assert isinstance(seal(vault(folder), SecretRef(kind=SecretKind.ENV, name="SECRET_A")), Unreadable)


def test_a_seal_depends_on_key_place_and_value_and_tells_none_of_them(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).write_text(CANARY)
    a, b = file_ref(folder / "a"), file_ref(folder / "b")
    first = str(seal(vault(folder), a))
    assert first == seal(vault(folder), a)
    assert first.partition("#")[2] != str(seal(vault(folder), b)).partition("#")[2]
    assert first != seal(vault(folder, bytes(32)), a)
    (folder / "a").write_text("another value")
    assert first != seal(vault(folder), a)


def test_a_seal_that_somebody_made_up_opens_nothing(folder: Path) -> None:
    (folder / "a").write_text(CANARY)
    kept = vault(folder)
    genuine = str(seal(kept, file_ref(folder / "a")))
    (folder / "b").write_text("the other one")
    for forged in (
        genuine.replace("/a#", "/b#"),
        file_ref(folder / "b").sealed("0" * 32),
        file_ref(folder / "b").sealed(""),
        genuine[:-1] + ("0" if genuine[-1] != "0" else "1"),
        "heliostat-secret:",
        "",
    ):
        assert kept.value_of(forged) is None
    kept.learn({genuine.replace("/a#", "/b#"): "x"})
    assert kept.value_of(genuine.replace("/a#", "/b#")) is None


def test_an_old_seal_has_the_value_that_serve_holds_and_else_todays(folder: Path) -> None:
    (folder / "a").write_text("old value")
    old = str(seal(vault(folder), file_ref(folder / "a")))
    (folder / "a").write_text("new value")
    restarted = vault(folder)
    assert restarted.value_of(old) == "new value"
    restarted.learn({old: "old value"})
    assert restarted.value_of(old) == "old value"
    (folder / "a").unlink()
    assert vault(folder).value_of(old) is None, "others of the document do not wait for it"


# -- Kubernetes --------------------------------------------------------------------------------------------------------


class Api:
    """Stands in for the Kubernetes API: checks what it is asked as that one does."""

    def __init__(self) -> None:
        self.token = "account-token-1"
        self.secrets: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.broken = False

    def answer(self, path: str, headers: Mapping[str, str]) -> tuple[int, Any]:
        self.asked.append(path)
        if self.broken:
            return 503, {}
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"kind": "Status", "code": 401}
        parts = path.split("/")
        if parts[:4] != ["", "api", "v1", "namespaces"] or parts[5:6] != ["secrets"] or len(parts) != 7:
            return 404, {"kind": "Status", "code": 404}
        if parts[4] == "forbidden":
            return 403, {"kind": "Status", "code": 403}
        data = self.secrets.get(f"{parts[4]}/{parts[6]}")
        if data is None:
            return 404, {"kind": "Status", "code": 404}
        coded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        return 200, {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": coded}


@contextmanager
def kubernetes(api: Api) -> Iterator[str]:
    class Handler(Answering):
        def answer(self) -> None:
            status, body = api.answer(self.path, self.headers)
            self.say(status, json.dumps(body).encode(), JSON)

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def kube_ref(name: str) -> SecretRef:
    return SecretRef(kind=SecretKind.KUBERNETES, name=name)


def test_a_kubernetes_secret_is_asked_for_as_the_service_account(tmp_path: Path) -> None:
    api, token = Api(), tmp_path / "token"
    api.secrets["prod/hf"] = {"token": CANARY}
    token.write_text(api.token + "\n")
    with kubernetes(api) as url:
        client = KubernetesApiSecrets(KubernetesApi(url=url, token_file=token))
        kept = Vault(SecretLimits(namespaces=("prod", "forbidden")), KEY, client)
        made = seal(kept, kube_ref("prod/hf/token"))
        assert isinstance(made, str)
        assert kept.value_of(made) == CANARY
        assert api.asked == ["/api/v1/namespaces/prod/secrets/hf"]
        for name, why in {
            "prod/hf/other": "no key 'other'",
            "prod/none/token": "no such secret",
            "forbidden/hf/token": "service account may not read",
            "other/hf/token": "do not allow that namespace",
        }.items():
            found = seal(kept, kube_ref(name))
            assert isinstance(found, Unreadable)
            assert why in found.message
        assert "/api/v1/namespaces/other/secrets/hf" not in api.asked
        api.token = "account-token-2"
        assert isinstance(seal(kept, kube_ref("prod/hf/token")), Unreadable)
        token.write_text(api.token)
        assert isinstance(seal(kept, kube_ref("prod/hf/token")), str), "the token is read anew: it is exchanged hourly"
        api.broken = True
        with pytest.raises(Retry, match="503"):
            seal(kept, kube_ref("prod/hf/token"))
    with pytest.raises(Retry, match="cannot be reached"):
        seal(kept, kube_ref("prod/hf/token"))


def test_outside_of_kubernetes_such_secrets_are_refused() -> None:
    assert KubernetesApi.of_pod({}) is None
    found = seal(Vault(SecretLimits(namespaces=("prod",)), KEY), kube_ref("prod/hf/token"))
    assert isinstance(found, Unreadable)
    assert "--kubernetes-api" in found.message
    pod = KubernetesApi.of_pod({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"})
    assert pod is not None
    assert pod.url == "https://[fd00::1]:6443"


# -- in what a repository wants ----------------------------------------------------------------------------------------

SPEC = """\
apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {{name: chat}}
spec:
  application:
    import_path: app:build
    runtime_env: {{envFrom: {{KEY: {{file: {path}}}}}}}
    deployments:
      - {{name: Chat, num_replicas: 1}}
"""


async def test_another_value_is_another_revision_without_a_commit(folder: Path, tmp_path: Path) -> None:
    (folder / "a").write_text(CANARY)
    origin = Origin(tmp_path / "origin")
    origin.commit({"a.yaml": SPEC.format(path=folder / "a")})
    watched = Watched(f"file://{origin.folder}", tmp_path / "state", vault=vault(folder))

    async def revision() -> str | None:
        await watched.source._refresh()
        desired = (await watched.source.read()).desired
        assert desired is not None
        assert CANARY not in repr(desired)
        return desired.services[0].revision.id if desired.services else None

    first = await revision()
    assert await revision() == first
    (folder / "a").write_text("another value")
    second = await revision()
    assert second not in (first, None)
    (folder / "a").unlink()
    assert await revision() is None
    (folder / "a").write_text(CANARY)
    assert await revision() == first


# -- on the way to Ray -------------------------------------------------------------------------------------------------


class Ray:
    """Keeps what is PUT, and shows it as Serve does; `status` is what it answers to a PUT."""

    def __init__(self) -> None:
        self.document: Any = {"applications": []}
        self.status = 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            self.document = json.loads(request.content)
            text = f"Traceback\nValueError: bad input {request.content.decode()}" if self.status >= 400 else ""
            return httpx.Response(self.status, text=text)
        shown = {app["name"]: {"deployed_app_config": app} for app in self.document["applications"]}
        return httpx.Response(200, json={"applications": shown})


async def test_ray_gets_the_value_and_nobody_above_sees_it(folder: Path) -> None:
    (folder / "a").write_text(CANARY)
    ray, kept = Ray(), vault(folder)
    made = str(seal(kept, file_ref(folder / "a")))
    app = {"name": "ours", "runtime_env": {"env_vars": {"KEY": made}}}
    async with SealedRest("http://ray.test", kept, transport=httpx.MockTransport(ray)) as rest:
        await rest.send("PUT", APPLICATIONS, body={"applications": [app]})
        held = ray.document["applications"][0]["runtime_env"]["env_vars"]
        assert held == {"KEY": CANARY, f"{MARK}KEY": made}
        answer = await rest.get(APPLICATIONS)
        assert answer.json()["applications"]["ours"]["deployed_app_config"] == app
        assert CANARY not in answer.text
        for status, error in ((500, Retry), (501, Stalled), (422, None)):
            ray.status = status
            if error is None:
                told = (await rest.send("PUT", APPLICATIONS, body={"applications": [app]})).text
            else:
                with pytest.raises(error) as raised:
                    await rest.send("PUT", APPLICATIONS, body={"applications": [app]})
                told = str(raised.value)
            assert CANARY not in told


@pytest.mark.parametrize(
    "spelt",
    [
        repr, json.dumps, lambda text: quote(text, safe=""), lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: text.splitlines()[1], lambda text: text,
    ],
    ids=["python", "json", "address", "base64", "line", "plain"],
)  # fmt: skip
def test_a_secret_of_many_lines_is_hidden_however_a_traceback_writes_it(spelt: Callable[[str], str]) -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\tw0'BAQ/EFAASC+\n}\n-----END KEY-----"
    told = hidden(f"ValueError: cannot read {spelt(key)} }} !", [key])
    assert "MIIEvQIBADAN" not in told
    assert base64.b64encode(key.encode()).decode()[:20] not in told
    assert told.startswith("ValueError: cannot read ")
    assert told.endswith(" } !"), "a line that is in every document hides nothing"


async def test_a_job_gets_the_values_of_its_environment_and_what_it_says_of_them_is_hidden(folder: Path) -> None:
    (folder / "a").write_text(CANARY)
    kept, sent = vault(folder), []
    made = str(seal(kept, file_ref(folder / "a")))

    def ray(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            sent.append(json.loads(request.content))
            return httpx.Response(200, json={"submission_id": "stage"})
        known = bool(sent)
        found = {
            "submission_id": "stage",
            "status": "FAILED",
            "message": f"env_vars: {CANARY}",
            "logs": f"KEY={CANARY}",
        }
        return httpx.Response(200 if known else 404, json=found)

    async with SealedRest("http://ray.test", kept, transport=httpx.MockTransport(ray)) as rest:
        jobs = RayJobs(rest, owner="me")
        await jobs.start(JobOrder(id="stage", command="true", runtime_env={"env_vars": {"KEY": made}}))
        seen = await jobs.look("stage")
        assert seen is not None
        assert CANARY not in seen.message
        assert CANARY not in await jobs.output("stage")
    assert sent[0]["runtime_env"]["env_vars"]["KEY"] == CANARY


async def test_what_is_live_keeps_its_value_when_the_secret_changes(folder: Path) -> None:
    """Serve would rebuild a live application whose variables change."""
    (folder / "a").write_text(CANARY)
    ray, kept = Ray(), vault(folder)
    old = str(seal(kept, file_ref(folder / "a")))
    live = {"name": "live", "runtime_env": {"env_vars": {"KEY": old}}}
    async with SealedRest("http://ray.test", kept, transport=httpx.MockTransport(ray)) as rest:
        await rest.send("PUT", APPLICATIONS, body={"applications": [live]})
    (folder / "a").write_text("the new value")
    restarted = vault(folder)
    new = str(seal(restarted, file_ref(folder / "a")))
    canary = {"name": "canary", "runtime_env": {"env_vars": {"KEY": new}}}
    async with SealedRest("http://ray.test", restarted, transport=httpx.MockTransport(ray)) as rest:
        await rest.get(APPLICATIONS)
        await rest.send("PUT", APPLICATIONS, body={"applications": [live, canary]})
    values = [app["runtime_env"]["env_vars"]["KEY"] for app in ray.document["applications"]]
    assert values == [CANARY, "the new value"]


# -- a secret in a setting ---------------------------------------------------------------------------------------------


def test_a_secret_shows_in_no_form(tmp_path: Path) -> None:
    secret = Secret(CANARY)
    settings = Settings(repo="r", state=tmp_path, ray_token=secret, webhook_github_secret_file=(secret,))
    shown = [
        str(secret),
        repr(secret),
        f"{secret} {secret!r} {secret:>20}",
        repr(settings),
        str(dataclasses.asdict(settings)),
        json.dumps({"x": secret}, default=str),
        repr(copy.deepcopy(settings)),
    ]
    assert not [text for text in shown if CANARY in text]
    assert copy.deepcopy(secret).reveal() == CANARY
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(Exception, match="Secret"):
        TypeAdapter(Secret)
    assert secret == Secret(CANARY)
    assert secret != Secret("another")


async def test_serve_is_put_read_and_found_unchanged_without_a_value_in_sight(folder: Path) -> None:
    """The whole way: composed with what is live, put, read back, and found to be what was wanted."""
    (folder / "a").write_text(CANARY)
    dashboard, kept = FakeDashboard(), vault(folder)
    made = str(seal(kept, file_ref(folder / "a")))

    def wants(*names: str) -> PutServeConfig:
        ours = [
            ServeApplication(
                name=name,
                config=canonical_json(
                    {
                        "name": name,
                        "route_prefix": f"/_/{name}",
                        "import_path": "echo:build",
                        "runtime_env": {"env_vars": {"KEY": made}},
                    }
                ),
            )
            for name in names
        ]
        return PutServeConfig(applications=tuple(ours), removed=frozenset())

    one, two = "chat.aaaaaaaaaaaa.-.-.1", "chat.bbbbbbbbbbbb.-.-.1"
    async with SealedRest("http://ray.test", kept, transport=dashboard.transport) as rest:
        serve = RayServe(rest, nodes=dashboard.instance.nodes)
        await serve.put(wants(one))
        dashboard.advance(timedelta(seconds=10))
        await serve.put(wants(one))
        assert len(dashboard.puts) == 1, "what Serve holds is what was wanted"
    (folder / "a").write_text("rotated meanwhile")
    async with SealedRest("http://ray.test", vault(folder), transport=dashboard.transport) as rest:
        serve = RayServe(rest, nodes=dashboard.instance.nodes)
        await serve.put(wants(one, two))
        seen = await serve.read()
    first, second = (app["runtime_env"]["env_vars"]["KEY"] for app in dashboard.puts[1]["applications"])
    assert (first, second) == (CANARY, CANARY), "the same seal has one value, the live one"
    assert len(seen.cells) == 2
    assert CANARY not in repr(seen)
    assert made in repr(seen)
