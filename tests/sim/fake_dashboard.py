"""Ray's dashboard over HTTP, without a network: the real adapters talk to a simulated Serve."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx

from tests.sim.codebook import CodeBook
from tests.sim.fake_clock import START
from tests.sim.fake_nodes import FakeNodes
from tests.sim.serve_instance import ScaleRefused, ServeInstance

APPLICATIONS = "/api/serve/applications/"


@dataclass(kw_only=True)
class FakeDashboard:
    """Answers as Ray's dashboard does. `answers` overrides the next answers of a path."""

    instance: ServeInstance = field(
        default_factory=lambda: ServeInstance(nodes=FakeNodes.in_zones("a", "b", "c"), book=CodeBook())
    )
    requests: list[httpx.Request] = field(default_factory=list)
    answers: dict[str, list[httpx.Response | Exception]] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    drop_puts: bool = False
    """Answer 200 to a PUT and forget it: another writer was faster."""
    now: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        self.instance.advance_to(START)

    @property
    def transport(self) -> httpx.MockTransport:
        """Return what an httpx client talks to."""
        return httpx.MockTransport(self.answer)

    @property
    def puts(self) -> list[dict[str, Any]]:
        """Return the documents that were put."""
        return [json.loads(request.content) for request in self.requests if self._is(request, "PUT", APPLICATIONS)]

    def advance(self, duration: timedelta) -> None:
        """Let simulated time pass."""
        self.now += duration
        self.instance.advance_to(START + self.now)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        self.requests.append(request)
        waiting = self.answers.get(request.url.path)
        if waiting:
            prepared = waiting.pop(0)
            if isinstance(prepared, Exception):
                raise prepared
            return prepared
        return self._routes(request)(request)

    def _routes(self, request: httpx.Request) -> Callable[[httpx.Request], httpx.Response]:
        path = request.url.path
        if path == APPLICATIONS:
            return self._put if request.method == "PUT" else self._get
        if path.endswith("/scale"):
            return self._scale
        if path.startswith("/api/packages/gcs/"):
            return self._package
        return lambda _: httpx.Response(404, text="404: Not Found")

    def _get(self, _: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=self.instance.details())

    def _put(self, request: httpx.Request) -> httpx.Response:
        if not self.drop_puts:
            self.instance.put(json.loads(request.content))
        return httpx.Response(200)

    def _scale(self, request: httpx.Request) -> httpx.Response:
        application, deployment = request.url.path.split("/")[4:7:2]
        try:
            self.instance.scale(application, deployment, json.loads(request.content)["target_num_replicas"])
        except ScaleRefused as refusal:
            return httpx.Response(refusal.status, json={"error": str(refusal)})
        return httpx.Response(200, json={"message": "Scaling request received."})

    def _package(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        if request.method == "PUT":
            self.packages[name] = request.content
            return httpx.Response(200)
        return httpx.Response(200 if name in self.packages else 404)

    @staticmethod
    def _is(request: httpx.Request, method: str, path: str) -> bool:
        return (request.method, request.url.path) == (method, path)
