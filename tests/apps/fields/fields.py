"""A Serve application for tests with as many deployments as its args name; the first takes the requests."""

from typing import Any

import ray
from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0.01})
class Part:
    def __init__(self, *others: Any) -> None:
        self.others = others
        self.user_config: Any = None

    def reconfigure(self, user_config: Any) -> None:
        self.user_config = user_config

    async def __call__(self, request: Any) -> Any:
        return {"user_config": self.user_config}


@ray.remote(num_cpus=0)
class Shared:
    """An actor that the replicas of a deployment share."""


def build(args: dict[str, Any]) -> Any:
    """Return the application. `autoscaled` names the deployments that scale by themselves in the code."""
    first, *rest = args.get("parts", ["Front"])
    scaling = {"autoscaling_config": {"min_replicas": 1, "max_replicas": 2}}
    options = {name: scaling if name in args.get("autoscaled", ()) else {} for name in (first, *rest)}
    others = [Part.options(name=name, **options[name]).bind() for name in rest]
    return Part.options(name=first, **options[first]).bind(*others)


build_elsewhere = build
"""The same under another import path."""
