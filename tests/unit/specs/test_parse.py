"""From files to what a commit wants."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from specs.amount import Amount
from specs.desired import ClusterSettings, Pause, PruneSettings, SetWeight, SourceRef
from specs.parse import is_spec_file, read_desired
from tests.unit.specs.commits import COMMIT, KnownFolders, read

CHAT = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata:
  name: chat
  labels: {team: search}
spec:
  application:
    import_path: chat.app:build
"""

POLICY = """apiVersion: heliostat.dev/v1alpha1
kind: ClusterPolicy
metadata: {name: default}
spec:
  prune: {enabled: true, maxServices: 3, maxFraction: 50%}
  selfHeal: {enabled: false}
  budget: {maxServicesMoving: 2}
"""

FULL = """# The chat service
apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata:
  name: chat
spec:
  route: /v1/chat
  suspend: true
  maxRequestDuration: 1h
  application:
    import_path: chat.app:build
  rollout:
    steps:
      - setWeight: 5
      - pause: {duration: 90s}
      - pause: {}
      - setWeight: 100
    maxSurge: 1
    maxUnavailable: 50%
    minReady: 0
    progressDeadline: 5m
    scaleDownDelay: 0s
    autoRollback: false
"""


def other(name: str) -> str:
    return CHAT.replace("name: chat", f"name: {name}")


def test_the_defaults_are_those_of_the_contract() -> None:
    (service,) = read(CHAT).services
    assert (service.name, service.route, service.suspend) == ("chat", "/chat", False)
    assert service.labels == {"team": "search"}
    assert service.source == SourceRef(path="a.yaml", line=1)
    assert service.revision.max_request_duration == timedelta(minutes=10)
    rollout = service.rollout
    minute = Pause(duration=timedelta(minutes=1))
    assert rollout.steps == (SetWeight(weight=10), minute, SetWeight(weight=25), minute, SetWeight(weight=50), minute)
    assert (rollout.max_surge, rollout.max_unavailable) == (Amount(value=25, is_percent=True), Amount(value=0))
    assert rollout.min_ready == timedelta(seconds=10)
    assert rollout.progress_deadline == timedelta(minutes=10)
    assert rollout.scale_down_delay == timedelta(seconds=30)
    assert rollout.auto_rollback is True
    assert read(CHAT).settings == ClusterSettings()


def test_every_setting_is_read() -> None:
    (service,) = read(FULL).services
    assert (service.route, service.suspend, service.source.line) == ("/v1/chat", True, 2)
    assert service.revision.max_request_duration == timedelta(hours=1)
    rollout = service.rollout
    assert rollout.steps == (
        SetWeight(weight=5),
        Pause(duration=timedelta(seconds=90)),
        Pause(),
        SetWeight(weight=100),
    )
    assert (rollout.max_surge, rollout.max_unavailable) == (Amount(value=1), Amount(value=50, is_percent=True))
    assert (rollout.min_ready, rollout.scale_down_delay) == (timedelta(0), timedelta(0))
    assert rollout.progress_deadline == timedelta(minutes=5)
    assert rollout.auto_rollback is False


def test_no_steps_mean_straight_to_all_requests() -> None:
    (service,) = read(CHAT + "  rollout: {steps: []}\n").services
    assert service.rollout.steps == ()


def test_the_policy_of_the_cluster_is_read() -> None:
    assert read(POLICY, CHAT).settings == ClusterSettings(
        prune=PruneSettings(enabled=True, max_services=3, max_fraction=Amount(value=50, is_percent=True)),
        self_heal=False,
        max_services_moving=2,
    )


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("maxServices: 3", "maxServices: 0", "a.yaml:5:39: 0 is too small: write 1 or more"),
        ("50%", "2", "a.yaml:5:55: 2 is not a share of the services: write a percentage up to 100%, such as 20%"),
        ("50%", "101%", "a.yaml:5:55: 101% is not a share of the services"),
        ("selfHeal", "selfheal", 'a.yaml:6:3: unknown field "selfheal": did you mean "selfHeal"?'),
        ("budget: ", "quotas: [] #", 'a.yaml:7:3: unknown field "quotas"'),
        ("maxServicesMoving: 2", "maxSurge: 2", 'a.yaml:7:12: unknown field "maxSurge"'),
    ],
)
def test_a_wrong_policy_falls_back_to_removing_nothing(old: str, new: str, error: str) -> None:
    desired = read(POLICY.replace(old, new))
    assert str(desired.errors[0]).startswith(error)
    assert desired.settings == ClusterSettings()
    assert not desired.settings.prune.enabled


def test_two_policies_name_both_places_and_none_counts() -> None:
    desired = read(POLICY, CHAT + "---\n" + POLICY)
    assert [str(error) for error in desired.errors] == [
        "a.yaml:2:7: a repository has at most one ClusterPolicy, there are more at b.yaml:11:7: keep one of them",
        "b.yaml:11:7: a repository has at most one ClusterPolicy, there are more at a.yaml:2:7: keep one of them",
    ]
    assert desired.settings == ClusterSettings()
    assert [service.name for service in desired.services] == ["chat"]


def test_several_documents_and_files_are_read_and_others_ignored() -> None:
    foreign = "apiVersion: v1\nkind: Service\nmetadata: {name: other, made: 2026-01-01}\n"
    texts = (
        f"---\n---\n{CHAT}---\n{foreign}---\n{other('embed')}",
        other("rank"),
        foreign,
        "- 1\n",
        "",
        "a: {{ b }}\n",
    )
    desired = read(*texts)
    assert desired.errors == ()
    assert [(service.name, service.source.path) for service in desired.services] == [
        ("chat", "a.yaml"),
        ("embed", "a.yaml"),
        ("rank", "b.yaml"),
    ]
    assert desired.services[1].source.line == 16


def test_a_file_with_an_error_gives_no_service_and_the_others_go_on() -> None:
    desired = read(CHAT + "---\n" + other("Embed"), other("rank"))
    assert [service.name for service in desired.services] == ["rank"]
    assert [error.path for error in desired.errors] == ["a.yaml"]
    broken = read(CHAT + "---\na: [\n", other("rank"))
    assert [service.name for service in broken.services] == ["rank"]
    assert [str(error) for error in broken.errors] == [
        "a.yaml:11:1: not valid YAML: a value is missing here, or a bracket above is not closed"
    ]


def test_the_same_name_twice_names_both_places_and_holds_both() -> None:
    desired = read(CHAT, other("rank") + "---\n" + CHAT)
    assert [str(error) for error in desired.errors if "name" in error.message] == [
        'a.yaml:4:9: the name "chat" is also taken at b.yaml:13:9: give each service its own name',
        'b.yaml:13:9: the name "chat" is also taken at a.yaml:4:9: give each service its own name',
    ]
    assert len(desired.errors) == 2
    assert [service.name for service in desired.services] == ["rank"]


def test_the_same_route_twice_names_both_places_also_when_it_is_a_default() -> None:
    desired = read(CHAT, other("talk") + "  route: /chat\n", other("rank"))
    assert [str(error) for error in desired.errors] == [
        'a.yaml:4:9: the route "/chat" is also taken at b.yaml:9:10: give each service its own route',
        'b.yaml:9:10: the route "/chat" is also taken at a.yaml:4:9: give each service its own route',
    ]
    assert [service.name for service in desired.services] == ["rank"]


def test_a_route_inside_of_another_is_fine() -> None:
    assert len(read(CHAT, other("talk") + "  route: /chat/more\n").services) == 2


def test_a_name_in_a_broken_file_is_still_taken() -> None:
    """Otherwise a copy would take the service over while the original is being mended."""
    desired = read(CHAT + "  nope: 1\n", CHAT)
    assert desired.services == ()
    assert {error.path for error in desired.errors} == {"a.yaml", "b.yaml"}


def test_relative_folders_count_from_the_file() -> None:
    text = CHAT + "    runtime_env: {working_dir: ., py_modules: [../lib]}\n"
    folders = KnownFolders({"services/chat": "x", "services/lib": "y"})
    desired = read_desired(COMMIT, {"services/chat/spec.yaml": text.encode()}, folders)
    assert desired.errors == ()
    packages = desired.services[0].revision.packages
    assert [(package.path, package.commit) for package in packages] == [
        ("services/lib", COMMIT.sha),
        ("services/chat", COMMIT.sha),
    ]


@pytest.mark.parametrize(
    ("text", "is_spec"),
    [
        (CHAT, True),
        (POLICY, True),
        ("{apiVersion: heliostat.dev/v9, kind: Nothing}", True),
        ("a: 1\n---\n" + CHAT, True),
        (CHAT + "oops: [\n", True),
        ("apiVersion: v1\nkind: ConfigMap\ndata:\n  spec: |\n    apiVersion: heliostat.dev/v1alpha1\n", False),
        ("image: heliostat.dev/chat\n", False),
        ("image: [heliostat.dev/chat\n", False),
        ("", False),
        ("apiVersion: v1\n", False),
    ],
)
def test_spec_files_are_told_from_others(text: str, is_spec: bool) -> None:
    assert is_spec_file(text.encode()) is is_spec


def test_a_thousand_services_are_read_in_seconds() -> None:
    body = """    args: {model: small}
    runtime_env: {working_dir: app, env_vars: {A: b}}
    deployments:
      - {name: Chat, num_replicas: 4, ray_actor_options: {num_cpus: 1}}
      - {name: Rank, autoscaling_config: {min_replicas: 1, max_replicas: 9}}
"""
    files = {f"{number}.yaml": (other(f"chat{number}") + body).encode() for number in range(1000)}
    began = time.process_time()
    desired = read_desired(COMMIT, files, KnownFolders())
    assert len(desired.services) == 1000
    assert desired.errors == ()
    assert time.process_time() - began < 5


def test_settings_are_known_unless_a_wrong_file_may_hold_them() -> None:
    assert read(CHAT).is_policy_known
    assert read(CHAT, POLICY).is_policy_known
    assert read(CHAT.replace("import_path", "import"), POLICY).is_policy_known
    assert not read(CHAT, POLICY.replace("prune", "prunes")).is_policy_known
    assert not read(CHAT, "kind: [\napiVersion: heliostat.dev/v1alpha1\n").is_policy_known
    assert not read(POLICY, POLICY).is_policy_known


@pytest.mark.parametrize(
    "secret", ["ghp_canaryCANARY0123456789", "https://bot:canary-pw@h.example/x", "-----BEGIN PRIVATE KEY----- canary"]
)
@pytest.mark.parametrize(
    "field", ["import_path: SECRET", "route: SECRET", "maxRequestDuration: SECRET", "dependsOn: [SECRET]", "SECRET: 1"]
)
def test_a_secret_in_the_wrong_place_is_not_in_what_is_told_of_it(field: str, secret: str) -> None:
    written = field.replace("SECRET", f'"{secret}"')
    text = CHAT.replace("import_path: chat.app:build", written) if "import" in field else f"{CHAT}  {written}\n"
    errors = read(text).errors
    assert errors
    assert not [error for error in errors if "canary" in str(error).lower()]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_file_that_an_editor_saved_in_another_encoding_is_wrong_and_not_gone(encoding: str) -> None:
    found = read_desired(COMMIT, {"a.yaml": CHAT.encode(encoding)}, KnownFolders())
    assert [str(error) for error in found.errors] == ["a.yaml:1:1: the file is UTF-16 or UTF-32 text: save it as UTF-8"]
