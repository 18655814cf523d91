"""Drain one node of a Ray cluster: a program for a machine of that cluster, never imported by the daemon.

Ray offers draining through the GCS only, so the text of this file is run as a Ray job. It prints one line of JSON.
Just before it drains, it looks at what the node has given away: what neither Serve's report nor the lists of actors
and groups show (running tasks above all) shows there.
"""

import json
import sys
import time

SLACK = 1e-3
"""Amounts are sums of fractions."""

WAIT_S = 3.0
"""The GCS hears of a node's use with a delay: what has just ended may still be there."""

NOT_COUNTED = ("object_store_memory", "node:")


def main() -> None:
    """Arguments: the node's id, the amounts that may be in use (null: any), and why (for Ray's records).

    A fourth one, `end`: the node drains already and is empty; Ray is to end on it.
    """
    node, expected, why = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    gcs = _connected()
    said = end_with(gcs, node) if sys.argv[4:] == ["end"] else drain(gcs, node, expected, why)
    print("HELIOSTAT " + json.dumps(said), flush=True)


def _connected() -> "object":
    import ray
    from ray._private import services

    return ray._raylet.GcsClient(address=services.canonicalize_bootstrap_address_or_die(None))


def drain(gcs: "object", node: str, expected: "dict[str, float] | None", why: str) -> "dict[str, object]":
    """Return `{"drained": true}`, or why not."""
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    return drain_with(gcs, reason, (node, expected, why))


def end_with(gcs: "object", node: str) -> "dict[str, object]":
    """Have the raylet end, unless something runs there.

    It ends by itself once it is idle, but what an application's build returned keeps it busy for as long as that
    application lives: Serve holds on to it, and it lies in the object store of the node that the build ran on.
    """
    surplus = _surplus(gcs, node, {})
    if surplus is None or surplus:
        return {"drained": False, "why": f"something is in use on it: {surplus}"}
    ended = gcs.drain_nodes([bytes.fromhex(node)], timeout=10)  # type: ignore[attr-defined]
    return {"drained": True} if ended else {"drained": False, "why": "Ray does not know the node"}


def drain_with(gcs: "object", reason: int, wanted: "tuple[str, dict[str, float] | None, str]") -> "dict[str, object]":
    """Do it through a client of the GCS."""
    node, expected, why = wanted
    # Whatever is in use on a node that is about to be taken away goes with it.
    surplus = _surplus(gcs, node, expected) if expected is not None else {}
    if surplus is None:
        return {"drained": False, "why": "Ray does not tell what is in use on the node"}
    if surplus:
        used = ", ".join(f"{amount:g} {name}" for name, amount in sorted(surplus.items()))
        return {"drained": False, "why": f"something that is not Heliostat's uses {used} of it"}
    # No deadline: until its replacement runs, a replica stays, however long that takes.
    accepted, refusal = gcs.drain_node(node, reason, why, 0)  # type: ignore[attr-defined]
    return {"drained": True} if accepted else {"drained": False, "why": f"Ray refuses: {refusal}"}


def _surplus(gcs: "object", node: str, expected: "dict[str, float]") -> "dict[str, float] | None":
    """Return what is in use beyond what is expected; looked at again for a while before it counts."""
    until = time.monotonic() + WAIT_S
    while True:
        used = _used(gcs, node)
        if used is None:
            return None
        surplus = {name: amount - expected.get(name, 0.0) for name, amount in used.items()}
        surplus = {name: amount for name, amount in surplus.items() if amount > SLACK}
        if not surplus or time.monotonic() > until:
            return surplus
        time.sleep(0.5)


def _used(gcs: "object", node: str) -> "dict[str, float] | None":
    reply = gcs.get_all_resource_usage(timeout=10)  # type: ignore[attr-defined]
    for row in reply.resource_usage_data.batch:
        if row.node_id.hex() == node:
            total = dict(row.resources_total) or _total(gcs, node)
            left = dict(row.resources_available)
            # A placement group's share shows under names of its own beside the plain ones.
            counted = [name for name in total if not name.startswith(NOT_COUNTED) and "_group_" not in name]
            # Without totals nothing would seem to be in use: what cannot be seen is not taken for free.
            return {name: total[name] - left.get(name, 0.0) for name in counted} if total else None
    return None


def _total(gcs: "object", node: str) -> "dict[str, float]":
    """Return what the node brought along; not every report of its use repeats that."""
    known = gcs.get_all_node_info(timeout=10)  # type: ignore[attr-defined]
    return next((dict(found.resources_total) for key, found in known.items() if key.hex() == node), {})


if __name__ == "__main__":
    main()
