"""The process behind `reconciler.embedded`: it owns a local Ray cluster and is told what to do on stdin.

One JSON object per line in each direction. The cluster ends with this process, and this process ends
when stdin closes: whoever started it may die in any way without leaving a raylet behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from reconciler.embedded_processes import end_members

OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Close to the smallest that Ray accepts (75 MiB): nothing here goes through the object store."""

EXIT_BAD_START = 3
"""The cluster did not come up; the reason was sent as the answer."""


@dataclass(kw_only=True)
class Host:
    """The Ray cluster of this process. Nodes are known by their loopback address."""

    temp_dir: str
    dashboard_host: str
    cluster: Any = None
    nodes: dict[str, Any] = field(default_factory=dict)

    def start(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Start the head and return where its dashboard answers."""
        from ray.cluster_utils import Cluster

        # Ray notes the newest cluster's address here, and expects the folder to exist.
        (Path(self.temp_dir) / "ray").mkdir()
        self.cluster = Cluster(
            initialize_head=True,
            shutdown_at_exit=False,
            head_node_args={
                "node_ip_address": request["ip"],
                "num_cpus": 0,
                "include_dashboard": True,
                "dashboard_host": self.dashboard_host,
                "dashboard_port": request["dashboard_port"],
                # The agent binds 127.0.0.1, too: beside another cluster it would have no port, and run no jobs.
                "dashboard_agent_listen_port": 0,
                "object_store_memory": OBJECT_STORE_BYTES,
                "runtime_env_dir_name": _packages_folder(request["ip"]),
                "no_monitor": True,
                "include_log_monitor": False,
            },
        )
        head = self.cluster.head_node
        self.nodes[request["ip"]] = head
        return {"dashboard": self.cluster.webui_url, "gcs": head.gcs_address, "node": head.node_id}

    def add(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Add one worker node and wait until the cluster lists it."""
        node = self.cluster.add_node(
            node_ip_address=request["ip"],
            num_cpus=request["cpus"],
            num_gpus=request["gpus"],
            labels=request["labels"],
            resources=request["resources"],
            object_store_memory=OBJECT_STORE_BYTES,
            runtime_env_dir_name=_packages_folder(request["ip"]),
        )
        self.nodes[request["ip"]] = node
        return {"node": node.node_id}

    def kill(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Kill one worker node at once, as a power cut would."""
        self.cluster.remove_node(self.nodes.pop(request["ip"]), allow_graceful=False)
        return {}

    def stop(self) -> None:
        """End every process of the cluster and remove its files. Nothing here may raise."""
        for node in self.nodes.values():
            with suppress(Exception):
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=False)
        end_members(os.getsid(0), os.path.basename(self.temp_dir), spare=frozenset({os.getpid()}))
        shutil.rmtree(self.temp_dir, ignore_errors=True)

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what one request asks."""
        match request["do"]:
            case "start":
                return self.start(request)
            case "add":
                return self.add(request)
            case "kill":
                return self.kill(request)
            case other:
                raise ValueError(f"unknown request {other!r}")


def _packages_folder(ip: str) -> str:
    """Name a node's own folder for unpacked packages.

    Nodes of one machine share it by default, and each deletes a package before it unpacks it: under the
    running replicas of the others.
    """
    return f"runtime_resources_{ip}"


def _answer_channel() -> TextIO:
    """Keep the real stdout for answers; whatever Ray prints goes to the log on stderr."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return channel


def main() -> int:
    """Answer requests until stdin closes, then take the cluster down."""
    # Ctrl-C reaches the whole foreground group; the parent decides when the cluster ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    channel = _answer_channel()
    host = Host(temp_dir=os.environ["RAY_TMPDIR"], dashboard_host="127.0.0.1")
    try:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                reply = {"ok": True, **host.answer(request)}
            except Exception as error:
                traceback.print_exc()
                reply = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            with suppress(BrokenPipeError):
                channel.write(json.dumps(reply) + "\n")
            if request["do"] == "start" and not reply["ok"]:
                return EXIT_BAD_START
    finally:
        # A second signal must not cut the clean-up short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        host.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
