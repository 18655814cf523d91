"""Secrets of services: named in specs (`runtime_env.envFrom`), and never written anywhere but into Serve's document.

What a revision remembers is a *seal*: where the secret is read from, and a keyed hash of it. So plans, pages, events,
traces and the store can only ever hold seals; another value gives another revision; and what cannot be undone (the
value) exists where it is used. Seals are turned into values right before a document is PUT, and values back into
seals right after one was read, by marks that go with them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from specs.canonical import canonical_json
from specs.desired import Desired, DesiredService, SpecError
from specs.problems import Problem, describe
from specs.revision import digest
from specs.yaml_marks import Path

FIELD = "envFrom"
SEAL = "heliostat-secret:"
"""How a value begins that stands for a secret."""
MARK = "HELIOSTAT_SECRET_OF_"
"""A variable of this name beside NAME says that NAME holds a secret, and which. One for each: Serve merges the
variables of applications and deployments."""
MASK = "********"
SHORTEST_HIDDEN = 4
"""Shorter values are not looked for in messages: they would be found in every word."""
SHORTEST_LINE = 16
"""Shorter lines of a longer secret are not: a brace alone is in every document."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_SEALED = re.compile(rf"{SEAL}(?P<kind>file|env|kubernetesSecret):(?P<name>.+)#(?P<hash>[0-9a-f]+)", re.DOTALL)


class SecretKind(StrEnum):
    """Where a secret is kept."""

    FILE = "file"
    ENV = "env"
    KUBERNETES = "kubernetesSecret"


@dataclass(frozen=True, kw_only=True, order=True)
class SecretRef:
    """One secret. `name` is a path, a variable of the daemon, or NAMESPACE/SECRET/KEY."""

    kind: SecretKind
    name: str

    def __str__(self) -> str:
        """Return how it is told in messages."""
        return f"{self.kind} {self.name}"

    def sealed(self, digest: str) -> str:
        """Return the seal of a value with this keyed hash."""
        return f"{SEAL}{self.kind}:{self.name}#{digest}"


def ref_of(seal: str) -> SecretRef | None:
    """Return what a seal stands for; None for what is none."""
    found = _SEALED.fullmatch(seal)
    return SecretRef(kind=SecretKind(found["kind"]), name=found["name"]) if found else None


# -- as specs name them ------------------------------------------------------------------------------------------------


def env_from_problems(env: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """Yield what is wrong with the secrets of a runtime environment, and with variables that pretend to be some."""
    written = env.get("env_vars")
    variables: dict[str, Any] = written if isinstance(written, dict) else {}
    for name, value in variables.items():
        if str(name).startswith(MARK) or (isinstance(value, str) and value.startswith(SEAL)):
            yield Problem(path=(*path, "env_vars", name), message=f"secrets are written in {FIELD}, not in env_vars")
    sources = env.get(FIELD)
    if isinstance(sources, dict):
        for name, source in sources.items():
            yield from _source_problems(str(name), source, variables, (*path, FIELD, name))
    elif sources is not None:
        message = f"{FIELD} is a mapping: write NAME: {{file: /path}}, NAME: {{env: NAME}} or {{kubernetesSecret: ...}}"
        yield Problem(path=(*path, FIELD), message=message)


def _source_problems(name: str, source: Any, variables: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    found = _ref(source)
    if not _VARIABLE.fullmatch(name) or name.startswith("HELIOSTAT_"):
        yield Problem(path=path, message=f'"{name}" cannot be the name of a variable here', at_key=True)
    elif name in variables:
        yield Problem(path=path, message=f"{name} is written in env_vars too: take it out there", at_key=True)
    elif not isinstance(found, SecretRef):
        yield Problem(path=path, message=found)


def _ref(source: Any) -> SecretRef | str:
    """Return what one entry names, or what is wrong with it. Values are not shown: people paste secrets here."""
    if not isinstance(source, dict) or len(source) != 1:
        return f"exactly one of {', '.join(SecretKind)} is expected here, not {_kind_of(source)}"
    ((kind, where),) = source.items()
    match kind:
        case SecretKind.FILE if isinstance(where, str) and where.startswith("/") and "#" not in where:
            return SecretRef(kind=SecretKind.FILE, name=where)
        case SecretKind.FILE:
            return "write the absolute path of a file on the daemon's machine, such as /run/secrets/name"
        case SecretKind.ENV if isinstance(where, str) and _VARIABLE.fullmatch(where):
            return SecretRef(kind=SecretKind.ENV, name=where)
        case SecretKind.ENV:
            return "write the name of a variable of the daemon, such as SECRET_OF_CHAT"
        case SecretKind.KUBERNETES:
            return _kubernetes_ref(where)
        case _:
            return f"secrets come from {', '.join(SecretKind)}, not from {describe(kind)}"


def _kind_of(source: Any) -> str:
    return "several" if isinstance(source, dict) else f"a {'text' if isinstance(source, str) else 'value'}"


def _kubernetes_ref(where: Any) -> SecretRef | str:
    hint = "write kubernetesSecret: {namespace: ..., name: ..., key: ...}"
    if not isinstance(where, dict) or set(where) != {"namespace", "name", "key"}:
        return hint
    namespace, name, key = (where[field] for field in ("namespace", "name", "key"))
    is_sound = all(isinstance(text, str) for text in (namespace, name, key)) and (
        _LABEL.fullmatch(namespace) and _LABEL.fullmatch(name) and _KEY.fullmatch(key)
    )
    return SecretRef(kind=SecretKind.KUBERNETES, name=f"{namespace}/{name}/{key}") if is_sound else hint


# -- sealing what a commit wants ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Why there is no seal of a secret: it is not there, or may not be read."""

    message: str


def refs_of(desired: Desired) -> frozenset[SecretRef]:
    """Return every secret that a commit names."""
    return frozenset(ref for service in desired.services for ref in _refs(service))


def _refs(service: DesiredService) -> frozenset[SecretRef]:
    if FIELD not in service.revision.template:
        return frozenset()
    environments = _environments(json.loads(service.revision.template))
    found = (_ref(source) for env in environments for source in env.get(FIELD, {}).values())
    return frozenset(ref for ref in found if isinstance(ref, SecretRef))


def sealed(desired: Desired, seals: Mapping[SecretRef, str | Unreadable]) -> Desired:
    """Return what a commit wants with the seal of every secret; services whose secrets are not to be had are held."""
    services, errors = [], list(desired.errors)
    for service in desired.services:
        missing = {ref: seal.message for ref in sorted(_refs(service)) if isinstance(seal := seals[ref], Unreadable)}
        errors += [
            SpecError(path=service.source.path, line=service.source.line, column=1, message=f"{ref}: {message}")
            for ref, message in missing.items()
        ]
        if not missing:
            services.append(_sealed(service, seals))
    return replace(desired, services=tuple(services), errors=tuple(sorted(errors)))


def _sealed(service: DesiredService, seals: Mapping[SecretRef, str | Unreadable]) -> DesiredService:
    if FIELD not in service.revision.template:
        return service
    template = json.loads(service.revision.template)
    for env in _environments(template):
        sources = env.pop(FIELD, {})
        secrets = {name: seals[ref] for name, source in sources.items() if isinstance(ref := _ref(source), SecretRef)}
        if secrets:
            env["env_vars"] = {**(env.get("env_vars") or {}), **secrets}
    return replace(service, revision=replace(service.revision, **_identified(template, service)))


def _identified(template: dict[str, Any], service: DesiredService) -> dict[str, Any]:
    return {
        "id": digest(template, service.revision.max_request_duration, service.revision.stage),
        "template": canonical_json(template),
    }


def _environments(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every runtime environment inside of a document, those of deployments included."""
    if isinstance(value, list):
        for item in value:
            yield from _environments(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "runtime_env" and isinstance(item, dict):
                yield item
            elif key != "args":
                yield from _environments(item)


# -- documents on their way to and from Serve --------------------------------------------------------------------------


def revealed(document: Any, value_of: Callable[[str], str | None]) -> Any:
    """Return a document with the value of each seal, and a mark beside it. `document` itself stays as it is.

    `value_of` returns None for what only looks like a seal: somebody else's application may hold any text.
    """
    copy = json.loads(json.dumps(document))
    for env in _environments(copy):
        variables = env.get("env_vars")
        if isinstance(variables, dict):
            seals = {name: str(text) for name, text in variables.items() if ref_of(str(text)) is not None}
            values = {name: value for name, seal in seals.items() if (value := value_of(seal)) is not None}
            variables |= values
            variables |= {f"{MARK}{name}": seals[name] for name in values}
    return copy


def concealed(document: Any) -> tuple[Any, Mapping[str, str]]:
    """Return a document with a seal for each marked value, in messages too, and the values by their seals.

    `document` is changed. What is marked is concealed whatever its value: somebody else's change shows nothing.
    """
    known: dict[str, str] = {}
    for env in _environments(document):
        variables = env.get("env_vars")
        if isinstance(variables, dict) and any(str(name).startswith(MARK) for name in variables):
            env["env_vars"] = _concealed(variables, known)
    return _without(document, known.values()) if known else document, known


def _concealed(variables: Mapping[str, Any], known: dict[str, str]) -> dict[str, Any]:
    marks = {name.removeprefix(MARK): str(seal) for name, seal in variables.items() if name.startswith(MARK)}
    known |= {seal: str(variables[name]) for name, seal in marks.items() if name in variables}
    plain = {name: value for name, value in variables.items() if not name.startswith(MARK)}
    return plain | {name: seal for name, seal in marks.items() if name in variables}


def _without(value: Any, secrets: Iterable[str], *, is_told: bool = False) -> Any:
    """Hide secrets in messages, which are the applications' own words; in names and settings they cannot be."""
    if isinstance(value, str):
        return hidden(value, secrets) if is_told else value
    if isinstance(value, list):
        return [_without(item, secrets) for item in value]
    if isinstance(value, dict):
        return {key: _without(item, secrets, is_told=key == "message") for key, item in value.items()}
    return value


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Return a text with a mask for each secret in it, the longest first, however it is written there."""
    forms = {form for secret in set(secrets) if len(secret) >= SHORTEST_HIDDEN for form in _forms(secret)}
    for form in sorted(forms, key=lambda form: (-len(form), form)):
        text = text.replace(form, MASK)
    return text


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it is, as Python, JSON and addresses write it, in base64, and line by line (keys have many)."""
    plain = secret.encode(errors="replace")
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield quote(secret, safe="")
    yield base64.b64encode(plain).decode()
    yield from (line for line in secret.splitlines() if len(line) >= SHORTEST_LINE and line != secret)
