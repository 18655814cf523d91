"""Reads secrets through the Kubernetes API, as the service account of the daemon's pod or as the settings say."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from reconciler.errors import Retry, Stalled

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WITHIN = timedelta(seconds=10)
LARGEST_ANSWER = 4 * 1024 * 1024
"""Kubernetes holds a secret to 1 MiB."""


@dataclass(frozen=True, kw_only=True)
class KubernetesApi:
    """Where the API is, and how to be let in. The token is read at each call: Kubernetes exchanges it hourly."""

    url: str
    token_file: Path = ACCOUNT / "token"
    ca_file: Path | None = None
    """None: the account's own where there is one, else the system's authorities."""

    @classmethod
    def of_pod(cls, environ: Mapping[str, str] = os.environ) -> KubernetesApi | None:
        """Return the API of the cluster that we run in; None outside of one."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
        bracketed = f"[{host}]" if ":" in host else host
        return cls(url=f"https://{bracketed}:{port}") if host else None


class KubernetesApiSecrets:
    """Implements `reconciler.adapters.secrets.KubernetesSecrets`."""

    def __init__(self, api: KubernetesApi) -> None:
        """Nothing is asked before a secret is needed."""
        self._api = api

    def read(self, namespace: str, name: str) -> Mapping[str, str]:
        """Return a secret's data in base64. Raises Stalled when it may not be read, Retry when nobody answers."""
        url = f"{self._api.url}/api/v1/namespaces/{quote(namespace, safe='')}/secrets/{quote(name, safe='')}"
        try:
            token = self._api.token_file.read_text().strip()
            with httpx.Client(
                verify=self._tls(), trust_env=False, follow_redirects=False, timeout=WITHIN.total_seconds()
            ) as client:
                headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
                answer = client.get(url, headers=headers)
        except OSError as error:
            raise Retry(f"cannot read the token of the Kubernetes API: {error.strerror or error}") from None
        except httpx.HTTPError as error:
            raise Retry(f"the Kubernetes API cannot be reached: {str(error) or type(error).__name__}") from None
        return self._data(answer)

    def _tls(self) -> ssl.SSLContext | bool:
        if self._api.url.startswith("http://"):
            return False
        default = ACCOUNT / "ca.crt"
        chosen = self._api.ca_file or (default if default.exists() else None)
        return ssl.create_default_context(cafile=str(chosen) if chosen is not None else None)

    def _data(self, answer: httpx.Response) -> Mapping[str, str]:
        refused = {
            401: "the Kubernetes API does not know the daemon's token",
            403: "the daemon's service account may not read it: allow it to `get` that secret",
            404: "there is no such secret",
        }
        if answer.status_code in refused:
            raise Stalled(refused[answer.status_code])
        if answer.status_code != 200 or len(answer.content) > LARGEST_ANSWER:
            raise Retry(f"the Kubernetes API answered {answer.status_code}")
        try:
            document: Any = answer.json()
        except ValueError:
            raise Retry("the Kubernetes API answered something that is not JSON") from None
        data = document.get("data") if isinstance(document, dict) else None
        return {key: value for key, value in (data or {}).items() if isinstance(value, str)}
