"""What a plan says of a change: which services, what happens to each, and which field or file is the reason."""

from __future__ import annotations

import pytest

from reconciler.planning.changes import changes
from specs.desired import PackageRef
from specs.parse import SpecReader, Specs
from specs.planned import Action, Consequence, FileFate, PlannedChange, PlannedService
from tests.unit.specs.commits import COMMIT, KnownFolders

SERVICE = """apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {name: NAME, labels: {team: search}}
spec:
  application:
    import_path: app:build
    args: {model: small, token: "t0ps3cret"}
    runtime_env:
      working_dir: app
      env_vars: {KEY: "s3cret-one"}
    deployments:
      - {name: Chat, num_replicas: 4, max_ongoing_requests: 5, ray_actor_options: {num_cpus: 1}}
      - {name: Auto, autoscaling_config: {min_replicas: 1, max_replicas: 4}}
  rollout: {maxSurge: 25%}
"""
POLICY = """apiVersion: heliostat.dev/v1alpha1
kind: ClusterPolicy
metadata: {name: default}
spec: {prune: {enabled: true, maxServices: 1, maxFraction: 100%}}
"""
CHAT, OTHER = SERVICE.replace("NAME", "chat"), SERVICE.replace("NAME", "other")


def specs(*texts: str, app: str = "app") -> Specs:
    files = {f"{chr(ord('a') + index)}.yaml": text.encode() for index, text in enumerate(texts) if text}
    return SpecReader().read(COMMIT, files, KnownFolders({"": "root", "app": app, "lib": "lib"}))


def packaged(ref: PackageRef) -> dict[str, str]:
    same = {"same.py": "1", "gone.py": "1", "edited.py": "1"}
    first = KnownFolders().package_id("app", keep_folder=False)
    return same if ref.tree == first else {"same.py": "1", "edited.py": "2", "new.py": "1"}


def planned(before: Specs, after: Specs) -> PlannedChange:
    return changes(before, after, packaged)


def only(before: Specs, after: Specs) -> PlannedService:
    (service,) = planned(before, after).services
    return service


def edited(old: str, new: str) -> PlannedService:
    assert old in CHAT
    return only(specs(CHAT), specs(CHAT.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "action", "path", "told"),
    [
        ("small", "large", Action.ROLL, "application.args.model", ("revision", '"small"', '"large"')),
        ("num_cpus: 1", "num_cpus: 2", Action.ROLL, "application.deployments[Chat].ray_actor_options.num_cpus",
         ("revision", "1.0", "2.0")),
        ("app:build", "app:make", Action.ROLL, "application.import_path",
         ("revision", '"app:build"', '"app:make"')),
        ("spec:\n", "spec:\n  maxRequestDuration: 30s\n", Action.ROLL, "maxRequestDuration",
         ("revision", '"10m"', '"30s"')),
        ("spec:\n", "spec:\n  loading: {stage: [s3://b/w]}\n", Action.ROLL, "loading.stage",
         ("revision", "[]", '["s3://b/w"]')),
        ("num_replicas: 4", "num_replicas: 6", Action.SCALE, "application.deployments[Chat].num_replicas",
         ("scale", "4", "6")),
        ("max_replicas: 4", "max_replicas: 9", Action.SCALE, "application.deployments[Auto].max_replicas",
         ("scale", "4", "9")),
        ("requests: 5", "requests: 9", Action.CONFIGURE, "application.deployments[Chat].max_ongoing_requests",
         ("in-place", "5", "9")),
        ("spec:\n", "spec:\n  route: /talk\n", Action.ROUTE, "route", ("route", '"/chat"', '"/talk"')),
        ("25%", "2", Action.CONFIGURE, "rollout.maxSurge", ("settings", '"25%"', "2")),
        ("team: search", "team: ads", Action.CONFIGURE, "metadata.labels.team", ("settings", '"search"', '"ads"')),
        ("spec:\n", "spec:\n  dependsOn: [other]\n", Action.CONFIGURE, "dependsOn", ("settings", "[]", '["other"]')),
    ],
)  # fmt: skip
def test_each_field_is_told_with_what_its_change_leads_to(
    old: str, new: str, action: Action, path: str, told: tuple[str, str, str]
) -> None:
    service = edited(old, new)
    assert service.action is action
    assert [(f.path, (f.consequence, f.before, f.after)) for f in service.fields] == [(path, told)]
    assert (service.revision_before == service.revision_after) is (action is not Action.ROLL)


def test_the_weightiest_change_gives_the_service_its_sign() -> None:
    after = CHAT.replace("small", "large").replace("num_replicas: 4", "num_replicas: 6").replace("25%", "2")
    service = only(specs(CHAT), specs(after))
    assert service.action is Action.ROLL
    kinds = [field.consequence for field in service.fields]
    assert kinds == [Consequence.REVISION, Consequence.SCALE, Consequence.SETTINGS]


def test_another_spelling_of_the_same_meaning_is_no_change() -> None:
    after = CHAT.replace("num_cpus: 1", "num_cpus: 1.0").replace("maxSurge: 25%", 'minReady: 10s, maxSurge: "25%"')
    after = after.replace("spec:\n", "spec:\n  route: /chat\n  suspend: false\n")
    change = planned(specs(CHAT), specs(after))
    assert change.is_empty
    assert change.unchanged == 1


def test_a_file_that_moved_is_no_change() -> None:
    assert planned(specs(CHAT, ""), specs("", CHAT)).is_empty


def test_pushed_code_is_told_file_by_file() -> None:
    service = only(specs(CHAT), specs(CHAT, app="newer"))
    assert service.action is Action.ROLL
    assert [field.path for field in service.fields] == ["application.runtime_env.working_dir"]
    assert {file.path: file.fate for file in service.files} == {
        "app/edited.py": FileFate.CHANGED,
        "app/gone.py": FileFate.REMOVED,
        "app/new.py": FileFate.ADDED,
    }


def test_secrets_are_told_as_changed_and_never_shown() -> None:
    text = repr(
        planned(specs(CHAT), specs(CHAT.replace("s3cret-one", "s3cret-two").replace("t0ps3cret", "t0ps3cret2")))
    )
    assert "application.runtime_env.env_vars.KEY" in text
    assert "application.args.token" in text
    assert "s3cret" not in text


def test_created_services_count_apart() -> None:
    change = planned(specs(CHAT), specs(CHAT, OTHER))
    assert [(service.name, service.action) for service in change.services] == [("other", Action.ADD)]
    assert str(change.counts) == "Plan: 1 to add, 0 to change, 0 to destroy, 0 on hold"


def test_removal_follows_the_daemons_own_prune_rules() -> None:
    before = specs(CHAT, OTHER, POLICY)
    gone = only(before, specs(CHAT, "", POLICY))
    assert (gone.action, gone.holds) == (Action.DESTROY, ())
    off = planned(before, specs(CHAT))
    assert [(s.name, s.action, s.holds[0].reason.value) for s in off.services] == [
        ("other", Action.DESTROY, "PruneDisabled")
    ]
    assert str(off.counts) == "Plan: 0 to add, 0 to change, 0 to destroy, 1 on hold"
    everything = planned(before, specs("", "", POLICY))
    assert {service.holds[0].reason.value for service in everything.services} == {"PruneGuard"}


def test_a_broken_file_keeps_its_services_and_holds_removals() -> None:
    change = planned(specs(CHAT, OTHER, POLICY), specs(CHAT.replace("rollout:", "rollaut:"), "", POLICY))
    assert [(s.name, s.action, s.holds[0].reason.value) for s in change.services] == [
        ("chat", Action.KEEP, "InvalidSpec"),
        ("other", Action.DESTROY, "InvalidSpec"),
    ]
    assert [error.path for error in change.errors] == ["a.yaml"]
    assert change.counts.hold == 2


def test_a_suspended_service_is_on_hold() -> None:
    suspended = CHAT.replace("spec:\n", "spec:\n  suspend: true\n")
    service = only(specs(suspended), specs(suspended.replace("small", "large")))
    assert [hold.reason.value for hold in service.holds] == ["Suspended"]


def test_the_cluster_policy_is_compared_too() -> None:
    change = planned(specs(CHAT, POLICY), specs(CHAT, POLICY.replace("maxServices: 1", "maxServices: 3")))
    assert [(field.path, field.before, field.after) for field in change.policy] == [("prune.maxServices", "1", "3")]
    assert not change.is_empty


@pytest.mark.parametrize(
    ("rollout", "warned"),
    [("maxSurge: 0, maxUnavailable: 100%", True), ("maxSurge: 1, maxUnavailable: 3", False), ("maxSurge: 1", False)],
)
def test_a_rollout_that_may_leave_nobody_serving_is_warned_of(rollout: str, warned: bool) -> None:
    before = CHAT.replace("maxSurge: 25%", rollout).replace("min_replicas: 1", "min_replicas: 4")
    service = only(specs(before), specs(before.replace("small", "large")))
    assert any("downtime" in warning for warning in service.warnings) is warned


def test_a_service_without_listed_deployments_is_warned_of() -> None:
    bare = CHAT[: CHAT.index("    deployments")] + "  rollout: {maxSurge: 1}\n"
    assert "no deployment is listed" in only(specs(), specs(bare)).warnings[0]


def test_a_deployment_that_leaves_the_list_is_warned_of() -> None:
    line = "      - {name: Auto, autoscaling_config: {min_replicas: 1, max_replicas: 4}}\n"
    assert line in CHAT
    service = only(specs(CHAT), specs(CHAT.replace(line, "")))
    assert [warning.split(":")[0] for warning in service.warnings] == ["Auto is not listed any more"]
    assert only(specs(CHAT), specs(CHAT.replace("small", "large"))).warnings == ()
