"""Each rule of a Service: where it speaks up, and what it says to write instead."""

from __future__ import annotations

from datetime import timedelta

import pytest

from specs.analysis import AnalysisSettings, Latency, SuccessRate
from specs.desired import Analysis, OnInconclusive
from tests.unit.specs.commits import read

HEAD = "apiVersion: heliostat.dev/v1alpha1\nkind: Service\n"


def service(spec: str, metadata: str = "{name: chat}") -> str:
    """Return a document whose `spec` starts on line 5."""
    lines = "\n".join(f"  {line}" for line in spec.splitlines())
    return f"{HEAD}metadata: {metadata}\nspec:\n{lines}\n"


def with_application(application: str) -> str:
    """Return a document whose application's fields, other than import_path, start on line 7."""
    lines = "\n".join(f"  {line}" for line in application.splitlines())
    return service(f"application:\n  import_path: chat:app\n{lines}")


def with_deployment(deployment: str) -> str:
    """Return a document whose only deployment, other than its name, starts on line 9."""
    lines = "\n".join(f"    {line}" for line in deployment.splitlines())
    return with_application(f"deployments:\n  - name: Chat\n{lines}")


def with_rollout(rollout: str, application: str = "{import_path: 'chat:app'}") -> str:
    """Return a document whose rollout's fields start on line 7."""
    lines = "\n".join(f"  {line}" for line in rollout.splitlines())
    return service(f"application: {application}\nrollout:\n{lines}")


def errors(text: str) -> list[str]:
    desired = read(text)
    assert bool(desired.errors) != bool(desired.services)
    return [str(error).removeprefix("a.yaml:") for error in desired.errors]


APPLICATION = "application: {import_path: 'chat:app'}"

SERVICES = [
    (
        service(APPLICATION, "{name: chat, annotations: {heliostat.dev/prune: enabled}}"),
        "3:37: heliostat.dev/prune: enabled is not known here: write heliostat.dev/prune: disabled",
    ),
    (
        service(APPLICATION, "{name: chat, annotations: {heliostat.dev/purne: disabled}}"),
        "3:37: heliostat.dev/purne: disabled is not known here: write heliostat.dev/prune: disabled",
    ),
    (HEAD, '1:1: "metadata" is missing: add metadata: {name: ...}'),
    (HEAD.replace("Service", "Servise"), '2:7: "Servise" is not known here: write Service'),
    (HEAD.replace("kind: Service\n", ""), "1:1: the kind is missing: add kind: Service or kind: ClusterPolicy"),
    (HEAD.replace("v1alpha1", "v1"), '1:13: "heliostat.dev/v1" is not known here: write heliostat.dev/v1alpha1'),
    (HEAD.replace("apiV", "apiv"), '1:1: write "apiVersion" instead of "apiversion"'),
    (service(APPLICATION, "{name: Chat}"), "3:18: 'Chat' is not a DNS label of at most 40 characters"),
    (service(APPLICATION, "{name: " + "a" * 41 + "}"), f"3:18: '{'a' * 41}' is not a DNS label"),
    (service(APPLICATION, "{name: -a}"), "3:18: '-a' is not a DNS label"),
    (service(APPLICATION, "{name: 7}"), "3:18: text (in quotes where it looks like a number) is expected here, not 7"),
    (service(APPLICATION, "{name: a, namespace: b}"), '3:21: "namespace" does not belong here: a service belongs to'),
    (service(APPLICATION, "{name: a, labels: {team: 1}}"), "3:36: text (in quotes"),
    (service("suspend: 'no'\n" + APPLICATION), '5:12: true or false is expected here, not "no"'),
    (service("route: chat\n" + APPLICATION), '5:10: the route \'chat\' does not start with "/": write "/chat"'),
    (service("route: /chat/\n" + APPLICATION), '5:10: the route \'/chat/\' ends in "/": write "/chat"'),
    (service("route: /a/../b\n" + APPLICATION), "5:10: the route '/a/../b' holds a dot segment"),
    (service("route: /a?b=c\n" + APPLICATION), "5:10: the route '/a?b=c' holds a query or fragment"),
    (service("route: /_/x\n" + APPLICATION), '5:10: routes under "/_" are reserved'),
    (service("route: /-\n" + APPLICATION), '5:10: routes under "/-" are reserved'),
    (service("route: /a//b\n" + APPLICATION), "5:10: the route '/a//b' is not a plain path"),
    (service("route: /%2e%2e\n" + APPLICATION), "5:10: the route '/%2e%2e' is not a plain path"),
    (service("route: /{x}\n" + APPLICATION), "5:10: the route '/{x}' is not a plain path"),
    (service("maxRequestDuration: 10\n" + APPLICATION), "5:23: '10' is not a duration: write a number with a unit"),
    (service("maxRequestDuration: 0s\n" + APPLICATION), "5:23: maxRequestDuration must be between 1s and 480h"),
    (service("maxRequestDuration: true\n" + APPLICATION), "5:23: a duration is expected"),
    (service("suspend: false"), '4:1: "application" is missing: add application: {import_path: module:attribute}'),
    (service("gateway: {}\n" + APPLICATION), '5:3: unknown field "gateway": leave it out, or write one of'),
    (service("maxRequestDurations: 1s\n" + APPLICATION), '5:3: unknown field "maxRequestDurations": did you mean "max'),
    (service("steps: []\n" + APPLICATION), '5:3: "steps" does not belong here: write rollout.steps'),
]


@pytest.mark.parametrize(("text", "error"), SERVICES)
def test_a_service_says_what_is_wrong_with_it(text: str, error: str) -> None:
    found = errors(text)
    assert found[0].startswith(error)


APPLICATIONS = [
    ("name: x", '7:5: "name" does not belong here: Heliostat names the application'),
    ("route_prefix: /x", '7:5: "route_prefix" does not belong here: Heliostat routes to the application'),
    ("external_scaler_enabled: true", '7:5: "external_scaler_enabled" does not belong here: Heliostat sets it'),
    ("port: 8000", '7:5: "port" does not belong here'),
    ("autoscaling_policy: {}", '7:5: "autoscaling_policy" does not belong here: Serve does not support it yet'),
    ("argz: {}", '7:5: unknown field "argz": did you mean "args"?'),
    ("args: [1]", "7:11: a mapping (key: value) is expected here, not a list"),
    ("args: {day: 2026-11-23}", "7:17: 2026-11-23 would be a date, which JSON does not have: quote it"),
    ("args: {rate: .nan}", "7:18: .nan is not a JSON number"),
    ("args: {1: x}", '7:12: keys must be text: write "1" in quotes'),
    ("deployments: {name: Chat}", "7:18: a list (- item) is expected here, not a mapping"),
    ("deployments: [{num_replicas: 1}]", '7:19: "name" is missing: add name: ...'),
    ("deployments: [{name: a#b}]", "7:26: 'a#b' cannot be a deployment's name"),
    ("deployments: [{name: a}, {name: a}]", '7:37: the deployment "a" is listed twice: merge the two entries'),
    ("logging_config: {log_level: LOUD}", "7:33: 'LOUD' is not a log level: write DEBUG, INFO"),
    ("logging_config: {encoding: json}", '7:32: "json" is not known here: write TEXT or JSON; did you mean JSON?'),
    ("runtime_env: {working_dir: /srv/app}", '7:32: "/srv/app" is a path on one machine: write a folder of this'),
    ("runtime_env: {working_dir: ~/app}", '7:32: "~/app" is a path on one machine'),
    ("runtime_env: {working_dir: ../..}", '7:32: "../.." leaves the repository: write a folder inside of it'),
    ("runtime_env: {working_dir: nowhere}", '7:32: the commit has no folder "nowhere": write an existing folder'),
    ("runtime_env: {working_dir: s3://bucket/app}", "7:32: Ray fetches .zip, .tar.gz, .tgz, .tar.xz files only"),
    ("runtime_env: {working_dir: 's3://b/a.whl'}", "7:32: Ray fetches .zip"),
    ("runtime_env: {working_dir: ftp://b/a.zip}", "7:32: ftp:// is not an address that Ray can fetch: write one of"),
    ("runtime_env: {working_dir: local://app}", "7:32: write local:///absolute/folder"),
    ("runtime_env: {working_dir: 7}", "7:32: a folder of this repository or an address is expected here, not 7"),
    ("runtime_env: {py_modules: lib}", "7:31: py_modules is a list: write - folder"),
    ("runtime_env: {py_modules: [lib, nowhere]}", '7:37: the commit has no folder "nowhere"'),
    (
        "runtime_env: {py_modules: [.]}",
        "7:32: a module is imported by its folder's name, and the repository's root has none",
    ),
    ("runtime_env: {env_vars: {PORT: 80}}", "7:36: the variable PORT must be text: write its value in quotes"),
    ("runtime_env: {env_vars: [A]}", "7:29: env_vars is a mapping: write NAME: text"),
    ("runtime_env: {env_var: {A: b}}", '7:19: unknown field "env_var": did you mean "env_vars"?'),
    ("runtime_env: {pip: requirements.txt}", "7:24: a requirements file is not read from here: write pip: [package"),
    (
        "runtime_env: {pip: {packages: [a], pip_chek: true}}",
        '7:40: unknown field "pip_chek": did you mean "pip_check"?',
    ),
    ("runtime_env: {uv: [1]}", "7:23: a list of texts is expected here: write uv: [package"),
    ("runtime_env: {conda: env.yaml}", "7:26: files are not read from here: write the environment itself"),
    ("runtime_env: {excludes: ['*.bin']}", "7:19: nothing is uploaded from a working copy: write `export-ignore`"),
]


@pytest.mark.parametrize(("application", "error"), APPLICATIONS)
def test_an_application_says_what_is_wrong_with_it(application: str, error: str) -> None:
    found = errors(with_application(application))
    assert found[0].startswith(error)


@pytest.mark.parametrize(
    ("import_path", "instead"),
    [("chat.app", 'write "chat:app"'), ("chat", 'write "module:attribute"'), ("a:b:c", 'write "module:attribute"'),
     (":b", 'write "module:attribute"'), ("chat/app:x", 'write "module:attribute"'), ("1a:b", "write")],
)  # fmt: skip
def test_an_import_path_names_module_and_attribute(import_path: str, instead: str) -> None:
    found = errors(service(f"application: {{import_path: '{import_path}'}}"))
    assert found[0].startswith("5:30: ")
    assert instead in found[0]


DEPLOYMENTS = [
    ("num_replicas: auto", '9:23: "auto" is not a number of replicas: write a whole number, or autoscaling_config:'),
    ("num_replicas: 0", "9:23: 0 is too small: write 1 or more"),
    ("num_replicas: 1.5", "9:23: a whole number is expected here, not 1.5"),
    ("num_replicas: true", "9:23: a whole number is expected here, not true"),
    ("num_replicas: 2\nautoscaling_config: {max_replicas: 3}", "9:9: num_replicas and autoscaling_config exclude"),
    ("autoscaling_config: {min_replicas: 0}", "9:44: scaling to zero is not supported yet"),
    ("autoscaling_config: {min_replicas: 2}", "9:44: max_replicas 1 (Serve's default) is below min_replicas 2"),
    ("autoscaling_config: {min_replicas: 3, max_replicas: 2}", "9:61: max_replicas 2 is below min_replicas 3"),
    ("autoscaling_config: {initial_replicas: 2}", "9:48: initial_replicas 2 is not between the bounds: write 1 to 1"),
    ("autoscaling_config: {max_replica: 2}", '9:30: unknown field "max_replica": did you mean "max_replicas"?'),
    ("autoscaling_config: {target_ongoing_requests: 0}", "9:55: 0 is too small: write more than 0"),
    ("autoscaling_config: {target_num_ongoing_requests_per_replica: 1}", '9:30: "target_num_ongoing_requests_per_'),
    ("autoscaling_config: {policy: {policy_function: f}}", "9:56: 'f' does not name anything to import"),
    ("max_replicas: 3", '9:9: "max_replicas" does not belong here: write autoscaling_config'),
    ("graceful_shutdown_timeout_s: 3", '9:9: "graceful_shutdown_timeout_s" does not belong here: Heliostat sets it'),
    ("gang_scheduling_config: {gang_size: 2}", '9:9: "gang_scheduling_config" does not belong here'),
    ("max_queued_requests: 0", "9:30: max_queued_requests must be at least 1, or -1 for no limit"),
    ("max_ongoing_requests: 0", "9:31: 0 is too small: write 1 or more"),
    ("backpressure_config: {status_code: 500}", "9:44: 500 is not known here: write 503 or 429"),
    ("rolling_update_percentage: 20", "9:36: 20 is too large: write 1 or less"),
    ("max_replicas_per_node: 0", "9:32: 0 is too small"),
    ("user_config: text", '9:22: a mapping (key: value) is expected here, not "text"'),
    ("ray_actor_options: {num_cpu: 1}", '9:29: unknown field "num_cpu": did you mean "num_cpus"?'),
    ("ray_actor_options: {num_gpus: -1}", "9:39: -1 is too small: write 0 or more"),
    ("ray_actor_options: {num_cpus: '1'}", '9:39: a number is expected here, not "1"'),
    ("ray_actor_options: {resources: {GPU: 1}}", "9:40: GPU is not a custom resource: write num_gpus beside resources"),
    ("ray_actor_options: {label_selector: {zone: 'a b'}}", "9:45: 'a b' is not a label selector: write value, !value"),
    ("ray_actor_options: {label_selector: {'a b': a}}", "9:45: 'a b' is not a label's name"),
    ("ray_actor_options: {fallback_strategy: [{}]}", '9:49: "label_selector" is missing'),
    ("ray_actor_options: {runtime_env: {working_dir: /x}}", '9:56: "/x" is a path on one machine'),
    ("placement_group_bundles: []", "9:34: this must not be empty"),
    ("placement_group_bundles: [{CPU: 1}]\nmax_replicas_per_node: 2", "10:9: max_replicas_per_node and placement_gr"),
    ("placement_group_bundles: [{CPU: 1}]\nray_actor_options: {num_cpus: 2}", "9:35: a replica needs 2 CPU, but the f"),
    ("placement_group_strategy: PACK", "9:9: placement_group_strategy needs placement_group_bundles beside it"),
    ("placement_group_bundles: [{CPU: 1}]\nplacement_group_strategy: NEAR", '10:35: "NEAR" is not known here: write'),
    ("placement_group_bundles: [{CPU: 1}]\nplacement_group_bundle_label_selector: [{}, {}]", "10:48: 2 selectors"),
    ("request_router_config: {request_router_class: x}", "9:55: 'x' does not name anything to import"),
    ("deployment_actors: [{name: a}]", '9:29: "actor_class" is missing'),
    (
        "deployment_actors: [{name: a, actor_class: 'm:A'}, {name: a, actor_class: 'm:A'}]",
        '9:67: the actor "a" is listed twice: give each its own name',
    ),
    (
        "deployment_actors: [{name: a, actor_class: 'm:A', actor_options: {runtime_env: {working_dir: .}}}]",
        "9:89: actors run with their deployment's code: write it in ray_actor_options.runtime_env",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("deployment", "error"), DEPLOYMENTS)
def test_a_deployment_says_what_is_wrong_with_it(deployment: str, error: str) -> None:
    found = errors(with_deployment(deployment))
    assert found[0].startswith(error)
    assert len(found) == 1


ROLLOUTS = [
    ("steps: {setWeight: 1}", "7:12: a list (- item) is expected here, not a mapping"),
    ("steps: [{setWeight: 0}]", "7:25: 0 is too small: write 1 or more"),
    ("steps: [{setWeight: 101}]", "7:25: 101 is too large: write 100 or less"),
    ("steps: [{setWeight: 10%}]", '7:25: a whole number is expected here, not "10%"'),
    ("steps: [{}]", "7:13: a step is exactly one of setWeight, pause"),
    (
        "steps: [{setWeight: 1, pause: {}}]",
        "7:13: a step is exactly one of setWeight, pause",
    ),
    (
        "steps: [{setWeight: 1, analysis: {}}]",
        "7:13: a step is exactly one of setWeight, pause",
    ),
    ("steps: [{analysis: {}}]", "7:14: the new revision gets no requests at this step, so there is nothing to compare"),
    (
        "steps: [{setWeight: 100}, {analysis: {}}]",
        "7:32: the old revision gets no requests at this step, so there is nothing to compare: write a setWeight below",
    ),
    ("steps: [{setWeight: 5}, {analysis: 60s}]", '7:40: a mapping (key: value) is expected here, not "60s"'),
    ("steps: [{setWeight: 5}, {analysis: {minRequests: 0}}]", "7:54: 0 is too small: write 1 or more"),
    ("steps: [{setWeight: 5}, {analysis: {time: 1m}}]", '7:41: unknown field "time": leave it out, or write one of'),
    ("onInconclusive: fail", '7:21: "fail" is not known here: write hold or promote'),
    ("steps: [{pause: 60s}]", '7:21: a mapping (key: value) is expected here, not "60s"'),
    ("steps: [{pause: {duration: 60}}]", "7:32: '60' is not a duration"),
    ("max_surge: 1", '7:5: unknown field "max_surge": did you mean "maxSurge"?'),
    ("maxSurge: -1", "7:15: -1 is not a count between 0 and 100000"),
    ("maxSurge: '1'", "7:15: '1' is neither a count nor a percentage: write a count such as 1, or a share such as 25%"),
    ("maxSurge: 2.5%", "7:15: '2.5%' is neither a count nor a percentage"),
    ("maxSurge: 1.5", "7:15: a count or a percentage is expected"),
    ("maxUnavailable: 101%", "7:21: 101% is more than everything: write at most 100%"),
    ("maxSurge: 0", "7:15: maxSurge and maxUnavailable are both 0, so no replica could ever be replaced"),
    ("maxSurge: 0%\nmaxUnavailable: 0%", "7:15: maxSurge and maxUnavailable are both 0"),
    ("maxSurge: 0", "7:15: maxSurge and maxUnavailable are both 0"),
    ("minReady: 10m", "7:15: minReady is not shorter than progressDeadline"),
    ("progressDeadline: 0s", "7:23: this must be longer than 0"),
    ("autoRollback: on", '7:19: YAML readers disagree about on: write true, or "on" in quotes'),
    ("rollbackWindow: 21", "7:21: 21 is too large: write 20 or less"),
    ("rollbackWindow: 25%", "7:21: "),
    ("bake: soon", "7:11: "),
    ("sticky: {}", "7:13: sticky is exactly one of cookie and header"),
    ("sticky: {cookie: x, header: y}", "7:13: sticky is exactly one of cookie and header"),
    ("sticky: {cookie: 'a b'}", "7:22: 'a b' is not a name that the gateway looks for"),
    ("steps: [{setHeaderRoute: {match: [{headerName: x}]}}]", '7:39: "headerValue" is missing'),
    (
        "steps: [{setHeaderRoute: {match: [{headerName: x, headerValue: {}}]}}]",
        "7:68: a header value is exactly one of exact and prefix",
    ),
    (
        "steps: [{setMirrorRoute: {percentage: 10}}]",
        '7:14: "setMirrorRoute" does not belong here: requests are not mirrored, since a mirrored one is '
        "executed twice: write setHeaderRoute",
    ),
    (
        "steps: [{setHeaderRoute: {match: [{headerName: x, headerValue: {regex: .*}}]}}]",
        '7:69: "regex" does not belong here: one service\'s regular expression could stall the requests of all',
    ),
    (
        "steps: [{setHeaderRoute: {match: [{headerName: x, headerValue: {exact: 'a|b'}}]}}]",
        "7:76: 'a|b' is not a value that the gateway looks for",
    ),
]


@pytest.mark.parametrize(("rollout", "error"), ROLLOUTS)
def test_a_rollout_says_what_is_wrong_with_it(rollout: str, error: str) -> None:
    found = errors(with_rollout(rollout))
    assert found[0].startswith(error)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("deployment", "unavailable", "count"),
    [
        ("num_replicas: 3", "33%", 3),
        ("num_replicas: 1", "99%", 1),
        ("autoscaling_config: {min_replicas: 2, max_replicas: 9}", "40%", 2),
    ],
)
def test_surge_and_unavailable_must_not_both_round_to_nothing(deployment: str, unavailable: str, count: int) -> None:
    application = f"{{import_path: 'chat:app', deployments: [{{name: Chat, {deployment}}}]}}"
    found = errors(with_rollout(f"maxSurge: 0\nmaxUnavailable: {unavailable}", application))
    assert len(found) == 1
    assert found[0].startswith(f"8:21: for {count} replica")
    assert read(with_rollout(f"maxSurge: 1%\nmaxUnavailable: {unavailable}", application)).errors == ()
    assert read(with_rollout("maxSurge: 0\nmaxUnavailable: 100%", application)).errors == ()


def test_all_problems_of_a_file_are_listed_in_order() -> None:
    text = with_rollout("maxSurge: 0\nsteps: [{setWeight: 0}]\nnope: 1", "{import_path: chat, name: x, args: [on]}")
    places = [":".join(error.split(":")[:2]) for error in errors(text)]
    assert places == ["5:30", "5:36", "5:51", "5:52", "7:15", "8:25", "9:5"]


def test_secrets_in_variables_are_never_shown() -> None:
    found = errors(with_application("runtime_env: {env_vars: {TOKEN: 918273645}}"))
    assert "918273645" not in "\n".join(found)


ANALYSES = [
    ("analysis: 99%", '6:13: a mapping (key: value) is expected here, not "99%"'),
    ("analysis: {successRate: {min: 0.99}}", "6:33: a percentage is expected: write for instance 99%"),
    ("analysis: {successRate: {min: 100%}}", "6:33: a success rate is more than 0% and less than 100%"),
    ("analysis: {latency: {quantile: 100}}", "6:34: 100 is too large: write 99.9 or less"),
    ("analysis: {latency: {maxIncrease: 0.3}}", "6:37: a percentage is expected"),
    ("analysis: {minRequests: 0}", "6:27: 0 is too small: write 1 or more"),
    ("analysis: {duration: 5m}", '6:14: "duration" does not belong here: write it at the step'),
    ("analysis: {sucessRate: {}}", '6:14: unknown field "sucessRate": did you mean "successRate"?'),
]


@pytest.mark.parametrize(("analysis", "error"), ANALYSES)
def test_an_analysis_says_what_is_wrong_with_it(analysis: str, error: str) -> None:
    found = errors(service(f"{APPLICATION}\n{analysis}"))
    assert found[0].startswith(error)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("analysis", "settings"),
    [
        ("", None),
        ("analysis: {}", AnalysisSettings()),
        (
            "analysis: {successRate: {min: 99.5%}, minRequests: 50}",
            AnalysisSettings(success_rate=SuccessRate(minimum=0.995), latency=None, min_requests=50),
        ),
        (
            "analysis: {latency: {quantile: 95, maxIncrease: 50%}}",
            AnalysisSettings(success_rate=None, latency=Latency(quantile=0.95, max_increase=0.5)),
        ),
    ],
)
def test_what_is_written_is_compared_and_everything_where_nothing_is(
    analysis: str, settings: AnalysisSettings | None
) -> None:
    (found,) = read(service(f"{APPLICATION}\n{analysis}")).services
    (plain,) = read(service(APPLICATION)).services
    assert found.analysis == settings
    assert found.revision == plain.revision


def test_an_analysis_step_takes_a_minute_unless_it_says_otherwise() -> None:
    text = (
        "steps: [{setWeight: 5}, {analysis: {}}, {analysis: {duration: 5m, minRequests: 9}}]\nonInconclusive: promote"
    )
    (found,) = read(with_rollout(text)).services
    assert found.rollout.steps[1:] == (
        Analysis(at_least=timedelta(minutes=1)),
        Analysis(at_least=timedelta(minutes=5), min_requests=9),
    )
    assert found.rollout.on_inconclusive is OnInconclusive.PROMOTE


def test_an_annotation_keeps_a_service_and_those_of_others_are_theirs() -> None:
    (kept,) = read(service(APPLICATION, "{name: chat, annotations: {heliostat.dev/prune: disabled}}")).services
    (other,) = read(service(APPLICATION, "{name: chat, annotations: {argocd.argoproj.io/x: '1'}}")).services
    assert (kept.is_prunable, other.is_prunable) == (False, True)
    assert kept.revision.id == other.revision.id
