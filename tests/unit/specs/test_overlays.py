"""Services that share a spec: what the merged document is, and that problems point at where they are written."""

from __future__ import annotations

import time

import pytest

from specs.desired import AutoScale, Desired, FixedScale
from specs.parse import MAX_ERRORS, SpecReader, Specs, read_desired
from specs.rendered import rendered
from tests.unit.specs.commits import COMMIT, KnownFolders

HEAD = "apiVersion: heliostat.dev/v1alpha1\n"
BASE = (
    HEAD
    + """kind: ServiceBase
metadata: {labels: {team: search, tier: gold}}
spec:
  maxRequestDuration: 30s
  application:
    import_path: app:build
    args: {model: small, url: "https://$(REGION).example/$(MODEL)"}
    runtime_env: {working_dir: ./app, env_vars: {A: "1", B: "2"}}
    deployments:
      - {name: Chat, num_replicas: 1, ray_actor_options: {num_cpus: 2}}
      - {name: Aux, num_replicas: 1}
  rollout:
    steps: [{setWeight: 10}, {setWeight: 50}]
"""
)
PROD = (
    HEAD
    + """kind: Service
metadata: {name: chat, labels: {tier: platinum}}
bases: [../base/chat.yaml]
variables: [vars.yaml]
spec:
  maxRequestDuration: null
  application:
    runtime_env: {env_vars: {B: null, C: "3"}}
    deployments:
      - {name: Aux, $patch: delete}
      - {name: Chat, num_replicas: $(REPLICAS)}
      - {name: New, autoscaling_config: {min_replicas: 1, max_replicas: $(REPLICAS)}}
  rollout:
    steps: [{setWeight: 25}]
"""
)
VARS = HEAD + "kind: Variables\nvalues: {REGION: us, MODEL: large, REPLICAS: 7}\n"
BASE_FILE, PROD_FILE = "base/chat", "prod/chat"
FILES = {"base/chat.yaml": BASE, "prod/chat.yaml": PROD, "prod/vars.yaml": VARS}
FOLDERS = KnownFolders({"base/app": "app", "app": "app"})


def specs(files: dict[str, str], path: str = "") -> Specs:
    """Read files; only those below `path` are the daemon's, the others are the commit's."""
    texts = {name: text.encode() for name, text in files.items()}
    own = {name: text for name, text in texts.items() if name.startswith(path)}
    return SpecReader().read(COMMIT, own, FOLDERS, texts.get)


def read(**changed: str) -> Desired:
    return specs({**FILES, **{name.replace("__", "/") + ".yaml": text for name, text in changed.items()}}).desired


@pytest.mark.parametrize("path", ["", "prod/"])
def test_a_service_is_its_base_with_its_own_fields_on_top(path: str) -> None:
    found = specs(FILES, path)
    assert found.desired.errors == ()
    (service,) = found.desired.services
    plain = rendered(found.written["chat"], with_defaults=False)
    assert plain["metadata"] == {"name": "chat", "labels": {"team": "search", "tier": "platinum"}}
    application = plain["spec"]["application"]
    assert application["args"] == {"model": "small", "url": "https://us.example/large"}
    assert application["runtime_env"]["env_vars"] == {"A": "1", "C": "3"}
    assert plain["spec"]["rollout"]["steps"] == [{"setWeight": 25}]
    assert "maxRequestDuration" not in plain["spec"]
    assert {listed.name: listed.scale for listed in service.revision.deployments} == {
        "Chat": FixedScale(replicas=7),
        "New": AutoScale(min_replicas=1, max_replicas=7),
    }
    assert '"num_cpus":2.0' in service.revision.template


def test_a_folder_in_a_base_is_relative_to_the_base() -> None:
    (service,) = read().services
    assert [package.path for package in service.revision.packages] == ["base/app"]


def test_a_base_alone_deploys_nothing_and_is_no_error() -> None:
    assert specs({"base/chat.yaml": BASE, "v.yaml": VARS}).desired.services == ()
    assert specs({"base/chat.yaml": BASE, "v.yaml": VARS}).desired.errors == ()


def test_two_services_share_a_base_and_differ_in_what_they_say() -> None:
    staging = PROD.replace("name: chat,", "name: chat-staging,").replace("$(REPLICAS)", "1")
    found = specs({**FILES, "staging/chat.yaml": staging, "staging/vars.yaml": VARS.replace("large", "tiny")})
    assert [service.name for service in found.desired.services] == ["chat", "chat-staging"]
    assert "us.example/tiny" in found.desired.services[1].revision.template


def test_a_base_of_a_base_counts_least() -> None:
    middle = HEAD + "kind: ServiceBase\nbases: [../base/chat.yaml]\nspec: {application: {args: {model: medium}}}\n"
    found = read(mid__chat=middle, prod__chat=PROD.replace("../base/chat.yaml", "../mid/chat.yaml"))
    assert found.errors == ()
    assert '"model":"medium"' in found.services[0].revision.template
    assert found.services[0].revision.packages[0].path == "base/app"


def test_one_of_several_documents_is_named_after_a_hash() -> None:
    two = (
        BASE.replace("metadata: {", "metadata: {name: one, ")
        + "---\n"
        + BASE.replace("metadata: {", "metadata: {name: two, ")
    )
    found = read(base__chat=two, prod__chat=PROD.replace("base/chat.yaml", "base/chat.yaml#two"))
    assert found.errors == ()
    assert "more than one" in read(base__chat=two).errors[0].message


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        (BASE_FILE, "num_cpus: 2", "num_cpu: 2", 'base/chat.yaml:11:59: unknown field "num_cpu"'),
        (BASE_FILE, "maxRequestDuration: 30s", "maxReqDuration: 30s", 'base/chat.yaml:5:3: unknown field'),
        (BASE_FILE, "app:build", "nonsense", "base/chat.yaml:7:18: 'nonsense' is not an import path"),
        (BASE_FILE, "./app", "./nowhere", "base/chat.yaml:9:32: the commit has no folder"),
        (BASE_FILE, "./app", "../../out", 'base/chat.yaml:9:32: "../../out" leaves'),
        (BASE_FILE, "$(MODEL)", "$(MODELL)", 'base/chat.yaml:8:31: the variable "MODELL" is not'),
        (BASE_FILE, "spec:", "spec: [", "base/chat.yaml:6:14: not valid YAML"),
        (PROD_FILE, "setWeight: 25", "setWeight: 125", "prod/chat.yaml:15:25: 125 is too large"),
        (PROD_FILE, "Chat, num_replicas: $(REPLICAS)", "Chat, num_replicas: $(NONE)",
         'prod/chat.yaml:12:36: the variable "NONE"'),
        (PROD_FILE, "../base/chat.yaml", "../base/none.yaml", 'prod/chat.yaml:4:9: the commit has no file'),
        (PROD_FILE, "../base/chat.yaml", "../../x.yaml", 'prod/chat.yaml:4:9: "../../x.yaml" leaves the repository'),
        (PROD_FILE, "../base/chat.yaml", "vars.yaml", "prod/chat.yaml:4:9: prod/vars.yaml has no"),
        (PROD_FILE, "[vars.yaml]", "[../base/chat.yaml]", "prod/chat.yaml:5:13: base/chat.yaml is not"),
        (PROD_FILE, "[vars.yaml]", "vars.yaml", "prod/chat.yaml:5:12: variables is a list"),
        ("prod/vars", "REGION: us", "REGION: [us]", "prod/vars.yaml:3:18: REGION must be one value"),
        (BASE_FILE, "kind: ServiceBase", "kind: ServiceBase\nbases: [../prod/chat.yaml]",
         "base/chat.yaml:3:9: bases go"),
    ],
)  # fmt: skip
def test_a_problem_points_at_where_it_is_written(file: str, old: str, new: str, told: str) -> None:
    text = FILES[f"{file}.yaml"]
    assert old in text
    found = read(**{file.replace("/", "__"): text.replace(old, new)})
    assert any(str(error).startswith(told) for error in found.errors), [str(error) for error in found.errors]
    assert found.services == ()


def test_a_change_of_a_base_is_seen_though_the_file_that_takes_it_did_not_change() -> None:
    reader = SpecReader()
    texts = {name: text.encode() for name, text in FILES.items()}
    own = {"prod/chat.yaml": texts["prod/chat.yaml"]}
    before = reader.read(COMMIT, own, FOLDERS, texts.get).desired
    texts["base/chat.yaml"] = texts["base/chat.yaml"].replace(b"small", b"large")
    after = reader.read(COMMIT, own, FOLDERS, texts.get).desired
    assert before.services[0].revision.id != after.services[0].revision.id
    assert set(reader.consulted()) == {"base/chat.yaml", "prod/vars.yaml"}


def test_text_that_looks_like_a_variable_is_left_alone_without_variables() -> None:
    alone = (
        HEAD + 'kind: Service\nmetadata: {name: a}\nspec: {application: {import_path: "a:b", args: {cmd: "$(date)"}}}\n'
    )
    assert "$(date)" in specs({"a.yaml": alone}).desired.services[0].revision.template


def test_two_dollars_are_the_text_itself() -> None:
    found = read(base__chat=BASE.replace("$(MODEL)", "$$(MODEL)"))
    assert "/$(MODEL)" in found.services[0].revision.template


def test_a_base_ten_times_over_does_not_fill_the_memory() -> None:
    names = [f"b{level}.yaml" for level in range(8)]
    files = {
        name: HEAD + f"kind: ServiceBase\nbases: [{', '.join([below] * 10)}]\nspec: {{}}\n"
        for name, below in zip(names, [*names[1:], "end.yaml"], strict=True)
    }
    service = HEAD + 'kind: Service\nmetadata: {name: a}\nbases: [b0.yaml]\nspec: {application: {import_path: "a:b"}}\n'
    found = specs({**files, "end.yaml": BASE, "a.yaml": service}).desired
    assert found.services == ()
    assert any("more than 50 bases" in error.message for error in found.errors)


def test_variables_do_not_fill_the_memory() -> None:
    many = "$(LONG)" * 9000
    service = HEAD + "kind: Service\nmetadata: {name: a}\nvariables: [v.yaml]\n"
    service += f'spec: {{application: {{import_path: "a:b", args: {{x: "{many}"}}}}}}\n'
    variables = HEAD + f"kind: Variables\nvalues: {{LONG: {'l' * 500_000}}}\n"
    found = specs({"a.yaml": service, "v.yaml": variables}).desired
    assert "longer than 1 MiB" in found.errors[0].message


def test_a_variable_that_is_a_whole_text_counts_as_well() -> None:
    many = ", ".join(f"k{n}: $(LONG)" for n in range(30))
    service = HEAD + "kind: Service\nmetadata: {name: a}\nvariables: [v.yaml]\n"
    service += f'spec: {{application: {{import_path: "a:b", args: {{{many}}}}}}}\n'
    variables = HEAD + f"kind: Variables\nvalues: {{LONG: {'l' * 50_000}}}\n"
    assert "longer than 1 MiB" in specs({"a.yaml": service, "v.yaml": variables}).desired.errors[0].message


def test_thousands_of_unknown_variables_are_told_without_guessing_for_each() -> None:
    names = range(6000)
    texts = {
        "a.yaml": "apiVersion: heliostat.dev/v1alpha1\nkind: Service\nmetadata: {name: a}\nvariables: [v.yaml]\n"
        "spec: {application: {import_path: 'a:b', args: {" + ", ".join(f"k{n}: $(x{n})" for n in names) + "}}}\n",
        "v.yaml": "apiVersion: heliostat.dev/v1alpha1\nkind: Variables\nvalues: {"
        + ", ".join(f"y{n}: 1" for n in names)
        + "}\n",
    }
    begun = time.process_time()
    found = read_desired(COMMIT, {path: text.encode() for path, text in texts.items()}, KnownFolders())
    assert len(found.errors) == MAX_ERRORS + 1
    assert f"and {len(names) - MAX_ERRORS} more from here on" in found.errors[-1].message
    assert time.process_time() - begun < 15
