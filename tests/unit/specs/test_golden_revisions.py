"""Ids that other machines, other Pythons and earlier versions of Heliostat gave: a changed one restarts replicas.

Every id here was computed once and written down. It may change only together with what Serve would restart;
then every service of every user rolls out at the update of Heliostat, and its notes have to say so.
"""

from __future__ import annotations

import pytest

from tests.unit.specs.commits import read

HEAD = "apiVersion: heliostat.dev/v1alpha1\nkind: Service\nmetadata: {name: chat}\nspec:\n"

GOLDEN = {
    "plain": (
        "2f63849c7214",
        """  application: {import_path: 'app:build'}
""",
    ),
    "a package and arguments": (
        "3f1134af8f63",
        """  maxRequestDuration: 90s
  application:
    import_path: chat.app:build
    args: {model: small, ratio: 0.1, tiny: 1.0e-07, huge: 1.0e+22, third: 0.3333333333333333, none: null, answer: true}
    runtime_env: {working_dir: app, py_modules: [lib, 's3://b/x.zip'], env_vars: {B: "2", A: "1"}}
""",
    ),
    "kinds that look alike": (
        "fd0f2e263092",
        """  application: {import_path: 'app:build', args: {list: [1, 1.0, "1", true, [], {}]}}
""",
    ),
    "other alphabets": (
        "eb3fb28962b8",
        """  application:
    import_path: app:build
    args: {gr\u00fc\u00dfe: "na\u00efve \u2603 \U0001d518", "\\u00e9": "\\u0065\\u0301", line: "a\\u2028b"}
""",
    ),
    "counts and places": (
        "dc687836c480",
        """  application:
    import_path: app:build
    deployments:
      - name: Chat
        num_replicas: 4
        max_replicas_per_node: 2
        ray_actor_options:
          num_cpus: 0.5
          num_gpus: 1
          memory: 2000000000
          accelerator_type: A100
          resources: {fpga: 0.25}
          label_selector: {ray.io/availability-zone: "in(a, b)"}
          fallback_strategy: [{label_selector: {ray.io/availability-zone: c}}]
      - name: Embed
        placement_group_bundles: [{CPU: 1, GPU: 1}, {CPU: 2}]
        placement_group_strategy: STRICT_PACK
""",
    ),
    "autoscaled by a policy": (
        "f8c78f744a81",
        """  application:
    import_path: app:build
    deployments:
      - name: Chat
        autoscaling_config:
          min_replicas: 2
          max_replicas: 9
          metrics_interval_s: 5
          policy: {policy_function: "chat:scale", policy_kwargs: {per_replica: 2.5}}
""",
    ),
    "routers and actors": (
        "9c535d347c0e",
        """  application:
    import_path: app:build
    deployments:
      - name: Chat
        request_router_config: {request_router_class: "app:Router", request_routing_stats_period_s: 5}
        deployment_actors: [{name: cache, actor_class: "app:Cache", init_kwargs: {size: 10}}]
""",
    ),
    "what changes in place, as plain": (
        "2f63849c7214",
        """  application:
    import_path: app:build
    logging_config: {log_level: DEBUG}
    deployments:
      - name: Chat
        num_replicas: 7
        user_config: {threshold: 0.3}
        max_ongoing_requests: 9
        health_check_period_s: 3
""",
    ),
}


@pytest.mark.parametrize(("revision", "spec"), GOLDEN.values(), ids=GOLDEN.keys())
def test_the_id_of_a_spec_is_the_one_it_always_had(revision: str, spec: str) -> None:
    desired = read(HEAD + spec)

    assert desired.errors == ()
    assert desired.services[0].revision.id == revision
