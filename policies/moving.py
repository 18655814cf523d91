"""Autoscaled services on their way to other places: what they are to have then is what they had when they set out.

While replicas move Serve's targets hold the surge, too, or lack what makes way. Each look would take that for what the
requests ask for and go on by as much again, up to the upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping

from policies.placing import is_autoscaled
from policies.rollout import layout_now
from policies.view import ServiceView
from specs.desired import AutoScale


def is_on_its_way(view: ServiceView) -> bool:
    """Return whether the stable revision leaves places or comes to others, with something that Serve scales."""
    stable = view.memory.stable
    if stable is None or view.memory.candidate is not None or not is_autoscaled(view):
        return False
    layout = layout_now(view)
    return bool(layout.missing(view, stable)) or any(layout.is_leaving(cell) for cell in view.cells_of(stable))


def base_of_move(view: ServiceView) -> Mapping[str, int]:
    """Return the autoscaling base while a service is on its way: the one that it set out with, else its counts now."""
    if view.memory.base or not is_on_its_way(view):
        return view.memory.base
    return {name: view.budget(name).target for name in view.deployments if isinstance(view.scale(name), AutoScale)}
