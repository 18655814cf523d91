"""Reads secrets for services, from where the daemon's settings allow it, and seals them with a key of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from reconciler.errors import Retry, Stalled
from specs.desired import Desired
from specs.secrets import SecretKind, SecretRef, Unreadable, ref_of, refs_of, sealed

log = structlog.get_logger("heliostat")

LARGEST = 32 * 1024
"""A longer variable does not fit into a process's environment together with others."""


@dataclass(frozen=True, kw_only=True)
class SecretLimits:
    """What specs may name at all."""

    folders: tuple[Path, ...] = ()
    prefixes: tuple[str, ...] = ()
    """How variables of the daemon must begin."""
    namespaces: tuple[str, ...] = ()


class KubernetesSecrets(Protocol):
    """Secrets of a Kubernetes cluster."""

    def read(self, namespace: str, name: str) -> Mapping[str, str]:
        """Return a secret's data in base64. Raises Stalled when it may not be read, Retry when nobody answers."""


class NoKubernetes:
    """Outside of a Kubernetes cluster."""

    def read(self, namespace: str, name: str) -> Mapping[str, str]:
        """Say that there is none."""
        raise Stalled("the daemon knows no Kubernetes API: give --kubernetes-api, or run it in a pod")


class Vault:
    """Reads, seals and reveals. Blocking where it reads: call it in a thread."""

    def __init__(
        self,
        limits: SecretLimits,
        key: bytes,
        kubernetes: KubernetesSecrets | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`key` makes the seals; with another one, every secret looks changed."""
        self._limits = limits
        self._key = key
        self._kubernetes = kubernetes or NoKubernetes()
        self._environ = environ
        self._lock = threading.Lock()
        self._values: dict[str, str] = {}
        self._seals: Mapping[SecretRef, str | Unreadable] = {}

    def seal(self, desired: Desired) -> Desired:
        """Return what a commit wants with its secrets sealed. Raises Retry when one cannot be asked for now."""
        seals = {ref: self._seal(ref) for ref in sorted(refs_of(desired))}
        self._seals = seals
        return sealed(desired, seals) if seals else desired

    @property
    def is_used(self) -> bool:
        """Return whether the commit that was sealed last names any secret."""
        return bool(self._seals)

    def has_changed(self) -> bool:
        """Return whether any of those secrets is another one now, or can (or cannot) be read any more."""
        try:
            return any(self._seal(ref) != seal for ref, seal in self._seals.items())
        except Retry:
            return False

    def learn(self, values: Mapping[str, str]) -> None:
        """Take in values by their seals, as Serve holds them: what is live stays, also when it changed here."""
        with self._lock:
            self._values |= {seal: value for seal, value in values.items() if self._is_ours(seal)}

    def value_of(self, seal: str) -> str | None:
        """Return a seal's value; None for one that we have not made. Raises Retry when it cannot be asked for now.

        The value of an earlier seal that nobody holds any more is today's: what it opened has changed with it. One
        that is gone for good is None too: all other applications of the document must not wait for it.
        """
        ref = ref_of(seal)
        if ref is None or not self._is_ours(seal):
            return None
        with self._lock:
            known = self._values.get(seal)
        try:
            return known if known is not None else self._read(ref)
        except Stalled as error:
            log.warning("an application is put without a secret of its", secret=str(ref), reason=error.reason)
            return None

    def values(self) -> tuple[str, ...]:
        """Return every value that is known, to keep them out of messages."""
        with self._lock:
            return tuple(self._values.values())

    def _seal(self, ref: SecretRef) -> str | Unreadable:
        try:
            value = self._read(ref)
        except Stalled as error:
            return Unreadable(message=error.reason)
        mac = self._mac("value", f"{ref}\0{value}")
        seal = ref.sealed(mac + self._mac("seal", f"{ref}\0{mac}"))
        with self._lock:
            self._values[seal] = value
        return seal

    def _is_ours(self, seal: str) -> bool:
        """Return whether we have made a seal: who writes to Serve must not get at other secrets by making one up."""
        ref, (digest, proof) = ref_of(seal), (seal[-32:-16], seal[-16:])
        return ref is not None and hmac.compare_digest(proof, self._mac("seal", f"{ref}\0{digest}"))

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()[:16]

    def _read(self, ref: SecretRef) -> str:
        match ref.kind:
            case SecretKind.FILE:
                return _text(self._from_file(Path(ref.name)))
            case SecretKind.ENV:
                return _text(self._from_environment(ref.name))
            case SecretKind.KUBERNETES:
                return _text(self._from_kubernetes(*ref.name.split("/")))

    def _from_file(self, path: Path) -> bytes:
        real = path.resolve()
        if not any(real.is_relative_to(folder.resolve()) for folder in self._limits.folders):
            raise Stalled("the daemon's settings do not allow files there (--secret-folder)")
        try:
            # Opened without waiting: a pipe in the folder must not stop the daemon.
            with os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise Stalled("it is not a file")
                return file.read(LARGEST + 1).removesuffix(b"\n")
        except OSError as error:
            raise Stalled(f"cannot be read: {error.strerror}") from None

    def _from_environment(self, name: str) -> bytes:
        if not any(name.startswith(prefix) for prefix in self._limits.prefixes):
            raise Stalled("the daemon's settings do not allow variables of that name (--secret-env-prefix)")
        if name not in self._environ:
            raise Stalled("the daemon has no such variable")
        return self._environ[name].encode(errors="surrogateescape")

    def _from_kubernetes(self, namespace: str, name: str, key: str) -> bytes:
        if namespace not in self._limits.namespaces:
            raise Stalled("the daemon's settings do not allow that namespace (--secret-namespace)")
        data = self._kubernetes.read(namespace, name)
        if key not in data:
            raise Stalled(f"the secret has no key {key!r}")
        try:
            return base64.b64decode(data[key], validate=True)
        except ValueError:
            raise Stalled("its data is not base64") from None


def _text(value: bytes) -> str:
    """Return a value as a variable can hold it."""
    if len(value) > LARGEST:
        raise Stalled(f"it is larger than {LARGEST // 1024} KiB")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise Stalled("it is no UTF-8 text") from None
    if not text or "\0" in text:
        raise Stalled("it is empty" if not text else "it has a zero byte")
    return text
