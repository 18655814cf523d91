"""Ray's dashboard for everything above it: without any secret's value, in either direction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx

from reconciler.adapters.ray_rest import READ_WITHIN, Answer, RayRest
from reconciler.adapters.secrets import Vault
from reconciler.errors import Retry, Stalled
from specs.secrets import MARK, concealed, hidden, revealed

APPLICATIONS = "/api/serve/applications/"
JOBS = "/api/jobs/"
"""Programs on the cluster run in the environment of an application, secrets included."""


class SealedRest(RayRest):
    """Puts values in the place of seals right before a document leaves, and back right after one came."""

    def __init__(
        self,
        base_url: str,
        vault: Vault,
        *,
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`vault` knows the secrets."""
        super().__init__(base_url, token=token, transport=transport)
        self._vault = vault

    async def get(self, path: str, *, params: Mapping[str, str] | None = None) -> Answer:
        """GET `path`; of Serve's applications, with seals; of jobs, with masks."""
        answer = await super().get(path, params=params)
        if path.startswith(JOBS):
            return replace(answer, body=hidden(answer.body.decode(errors="replace"), self._vault.values()).encode())
        if path != APPLICATIONS or MARK.encode() not in answer.body:
            return answer
        document, values = concealed(answer.json())
        self._vault.learn(values)
        return replace(answer, body=json.dumps(document).encode())

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        within: timedelta = READ_WITHIN,
        may_fail: bool = False,
    ) -> Answer:
        """PUT or POST; applications and jobs with the values of their seals. What Ray says about it hides them."""
        if path in (APPLICATIONS, JOBS) and body is not None:
            body = await asyncio.to_thread(revealed, body, self._vault.value_of)
        try:
            answer = await super().send(method, path, body=body, within=within, may_fail=may_fail)
        except Retry as error:
            raise Retry(hidden(error.reason, self._vault.values()), error.after) from None
        except Stalled as error:
            raise Stalled(hidden(error.reason, self._vault.values())) from None
        secrets = self._vault.values()
        if answer.status < 400 or not secrets:
            return answer
        return replace(answer, body=hidden(answer.body.decode(errors="replace"), secrets).encode())
