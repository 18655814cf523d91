"""A ClusterPolicy that breaks stays in force as it was, like a service whose file breaks."""

from __future__ import annotations

import pytest

from specs.reasons import Reason
from tests.sim.world import Simulation

CHAT = b"""apiVersion: heliostat.dev/v1alpha1
kind: Service
metadata: {name: chat}
spec:
  application:
    import_path: app:build
    args: {revision: v1}
    deployments: [{name: Echo, num_replicas: 2}]
"""

NO_HEALING = b"""apiVersion: heliostat.dev/v1alpha1
kind: ClusterPolicy
metadata: {name: default}
spec: {selfHeal: {enabled: false}}
"""

BROKEN = [
    pytest.param(NO_HEALING.replace(b"enabled", b"enabeld"), id="an unknown field"),
    pytest.param(b"kind: [ClusterPolicy\napiVersion: heliostat.dev/v1alpha1\n", id="no YAML at all"),
]


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_broken_policy_does_not_fall_back_to_the_defaults(broken: bytes) -> None:
    sim = Simulation()
    await sim.start()
    sim.source.push_files({"chat.yaml": CHAT, "policy.yaml": NO_HEALING})
    await sim.settle()
    sim.source.push_files({"chat.yaml": CHAT, "policy.yaml": broken})
    await sim.run(5)
    sim.somebody_removes_ours()
    await sim.run(30)
    assert sim.serve.live("chat", "Echo") == 0
    assert sim.status().reason is Reason.SELF_HEAL_DISABLED
    sim.source.push_files({"chat.yaml": CHAT})
    await sim.until(lambda: sim.serve.live("chat", "Echo") == 2, what="the defaults put it back")
