"""From the spec files of one commit to what it wants: services, policy, and every problem with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from specs.application import (
    application_packages,
    application_problems,
    baseline_problems,
    metric_problems,
    rollout_problems,
)
from specs.asked import AskedIndex, no_file
from specs.cluster_policy import ClusterPolicy
from specs.dependencies import Need, circles
from specs.desired import (
    ClusterSettings,
    Commit,
    Desired,
    DesiredService,
    Revision,
    SourceRef,
    SpecError,
    Unread,
)
from specs.library import SPENT, Library
from specs.masking import masked_tokens
from specs.overlays import BASE, VARIABLES, Misfit, ReadFile, compose, is_composed
from specs.placement_spec import placement_problems
from specs.problems import Problem, describe, did_you_mean, validate
from specs.runtime_env import Folders, PackageIndex
from specs.service import (
    API_VERSION,
    GROUP,
    RolloutSpec,
    Service,
)
from specs.service_values import desired_service
from specs.unread import LFS_MESSAGE, WIDE_MESSAGE, error_of, is_lfs_pointer, is_wide
from specs.yaml_marks import Document, FiledMark, Mark, Node, YamlFile, YamlProblem, read_yaml

__all__ = ["PackageIndex", "SpecReader", "Specs", "is_spec_file", "read_desired"]

T = TypeVar("T")

KINDS = ("Service", "ClusterPolicy", BASE, VARIABLES)

MAX_MESSAGE = 500
"""Errors go to terminals, logs and the status page, a line each."""

MAX_ERRORS = 100
"""Of one file: more are one mistake made many times, and every look at the status would tell them all."""

MAX_LINKS = 50
"""Of a circle of services: each of them is told all links."""

MAX_RIVALS = 10
"""Places that take the same name, told to each of them."""

_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]+")

_OUR_LINE = re.compile(rb"^(?:---)?[ \t]*(?:\{[ \t]*)?[\"']?apiVersion[\"']?[ \t]*:[^\n]*heliostat\.dev", re.M | re.I)
"""Tells whose file it is when it cannot be read as YAML."""


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """A name or route that a document takes, valid or not."""

    kind: str
    value: str
    service: str
    path: str
    mark: Mark

    @property
    def place(self) -> str:
        return f"{self.path}:{self.mark[0]}:{self.mark[1]}"


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What one document, or one file, or all of them say."""

    services: tuple[DesiredService, ...] = ()
    written: tuple[Service | ClusterPolicy, ...] = ()
    """The documents behind `services` and `policies` that are right, as they were read."""
    policies: tuple[tuple[str, Mark, ClusterSettings | None], ...] = ()
    """Where each ClusterPolicy is, and what it sets; None when it is wrong."""
    claims: tuple[_Claim, ...] = ()
    needs: tuple[Need, ...] = ()
    """What each document depends on, valid or not."""
    errors: tuple[SpecError, ...] = ()

    @classmethod
    def joined(cls, parts: Iterable[_Read]) -> _Read:
        known = tuple(parts)
        return cls(
            services=tuple(service for part in known for service in part.services),
            written=tuple(model for part in known for model in part.written),
            policies=tuple(policy for part in known for policy in part.policies),
            claims=tuple(claim for part in known for claim in part.claims),
            needs=tuple(need for part in known for need in part.needs),
            errors=tuple(error for part in known for error in part.errors),
        )


@dataclass(frozen=True, kw_only=True)
class Specs:
    """What a commit wants, and the documents that say so, by name; the ClusterPolicy apart."""

    desired: Desired
    written: Mapping[str, Service] = field(default_factory=dict)
    policy: ClusterPolicy | None = None


def read_desired(commit: Commit, files: Mapping[str, bytes], packages: PackageIndex) -> Desired:
    """Read all YAML files of a commit, by their path in the repository.

    A file with an error gives no services: they are held where they are. Services that take the same name
    or route, or that wait for each other, are held, all of them. Never raises because of what the files say.
    """
    return SpecReader().read(commit, files, packages).desired


class SpecReader:
    """Reads commit after commit, and of each only what differs from the one before."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[str, _KnownFile] = {}
        self._parsed: dict[bytes, YamlFile] = {}
        self._is_spec: dict[bytes, bool] = {}
        self._library = Library()

    def read(
        self,
        commit: Commit,
        files: Mapping[str, bytes],
        packages: PackageIndex,
        elsewhere: ReadFile = no_file,
        unread: tuple[Unread, ...] = (),
    ) -> Specs:
        """Return what `read_desired` does, with the documents.

        `elsewhere` has the commit's other files, `unread` is what stands among `files` and is none.
        """

        def any_file(path: str) -> bytes | None:
            return files[path] if path in files else elsewhere(path)

        self._library = Library()
        self._known = {
            path: self._file(content, Folders(commit=commit.sha, file=path, index=packages, read=any_file))
            for path, content in sorted(files.items())
        }
        self._library = Library()
        self._parsed.clear()
        self._is_spec.clear()
        beside = _Read(errors=tuple(error_of(place) for place in unread if place.is_spec))
        read = _Read.joined((beside, *(known.read for known in self._known.values())))
        return _assembled(commit, read, unread)

    def is_spec_file(self, content: bytes) -> bool:
        """Return what the function of that name does; keeps the work for the `read` that follows."""
        known = self._is_spec.get(content)
        if known is None:
            known = is_wide(content) or (GROUP.encode() in content and _is_spec(self._yaml(content), content))
            self._is_spec[content] = known
        return known

    def _yaml(self, content: bytes) -> YamlFile:
        file = self._parsed.get(content)
        if file is None:
            self._parsed[content] = file = read_yaml(content)
        return file

    def _file(self, content: bytes, folders: Folders) -> _KnownFile:
        known, library = self._known.get(folders.file), self._library
        if known is not None and known.content == content and known.still_holds(folders, library.left):
            library.spend(known.values)
            return known.at(folders.commit)
        if is_lfs_pointer(content):
            return _KnownFile(content=content, read=_Read(errors=(_error(folders.file, (1, 1), LFS_MESSAGE),)))
        if is_wide(content):
            return _KnownFile(content=content, read=_Read(errors=(_error(folders.file, (1, 1), WIDE_MESSAGE),)))
        if GROUP.encode() not in content:
            return _KnownFile(content=content, read=_Read())
        if library.is_spent:
            return _KnownFile(content=content, read=_Read(errors=(_error(folders.file, (1, 1), SPENT),)), is_cut=True)
        index, left = AskedIndex(folders), library.left
        file = self._yaml(content)
        self._is_spec[content] = _is_spec(file, content)
        self._parsed.pop(content, None)  # Thousands of files as nodes are larger than what they say.
        library.spend(file.values)
        read = _read_file(file, content, replace(folders, index=index, read=index.read), library)
        return _KnownFile(
            content=content,
            read=read,
            asked=index.asked,
            taken=index.taken,
            values=left - library.left,
            is_cut=library.is_spent,
        )

    def consulted(self) -> Mapping[str, bytes]:
        """Return the files that the specs of the last reading take something from, by their path."""
        return {path: text for known in self._known.values() for path, text in known.taken.items() if text is not None}


@dataclass(frozen=True, kw_only=True)
class _KnownFile:
    """A file of the commit that was read last, and the answers on which its meaning rests."""

    content: bytes
    read: _Read
    asked: Mapping[tuple[str, bool], str | None] = field(default_factory=dict)
    taken: Mapping[str, bytes | None] = field(default_factory=dict)
    values: int = 0
    """What it and the files that it takes stand for, each time that they are taken."""
    is_cut: bool = False
    """Whether there may have been too much before it, or with it: then it depends on the other files as well."""

    def still_holds(self, folders: Folders, left: int) -> bool:
        """Return whether it means the same in a commit of which `left` values more are read."""
        if self.is_cut or self.values >= left:
            return False
        index = folders.index
        return all(folders.read(path) == text for path, text in self.taken.items()) and all(
            index.package_id(path, keep_folder=keep) == answer for (path, keep), answer in self.asked.items()
        )

    def at(self, commit: str) -> _KnownFile:
        """Return it as a file of another commit: packages are named with the commit that they are made from."""
        if not any(service.revision.packages for service in self.read.services):
            return self
        services = tuple(_copy(s, revision=_revision_at(s.revision, commit)) for s in self.read.services)
        return _copy(self, read=_copy(self.read, services=services))


def _revision_at(revision: Revision, commit: str) -> Revision:
    return _copy(revision, packages=tuple(_copy(package, commit=commit) for package in revision.packages))


def _copy(value: T, **changes: object) -> T:
    """Return what `replace` does of a value without slots or own `__post_init__`, in a fifth of its time.

    Each commit copies every service that has a package, be there thousands of them.
    """
    made: T = object.__new__(type(value))
    made.__dict__.update(value.__dict__, **changes)
    return made


def _assembled(commit: Commit, read: _Read, unread: tuple[Unread, ...]) -> Specs:
    """Return what all files say together."""
    doubles, disputed = _doubles(read.claims)
    settings, policy_errors = _settings(read.policies)
    rounds = {circle[0].service: _circle_error(circle) for circle in circles(read.needs)}
    held = disputed | rounds.keys()
    services = tuple(service for service in read.services if service.name not in held)
    names = {service.name for service in services}
    errors = tuple(sorted({*read.errors, *doubles, *policy_errors, *rounds.values()}))
    desired = Desired(
        commit=commit,
        services=tuple(sorted(services, key=lambda service: service.name)),
        errors=errors,
        settings=settings or ClusterSettings(),
        unread=unread,
        is_policy_known=settings is not None or not errors,
        policy_path=read.policies[0][0] if settings is not None else "",
    )
    written = {model.metadata.name: model for model in read.written if isinstance(model, Service)}
    policies = [model for model in read.written if isinstance(model, ClusterPolicy)]
    return Specs(
        desired=desired,
        written={name: model for name, model in sorted(written.items()) if name in names},
        policy=policies[0] if settings is not None and policies else None,
    )


def is_spec_file(content: bytes) -> bool:
    """Return whether a YAML file has a document for Heliostat, right or wrong."""
    return is_wide(content) or (GROUP.encode() in content and _is_spec(read_yaml(content), content))


def _is_spec(file: YamlFile, content: bytes) -> bool:
    if any(_is_ours(document.root) for document in file.documents):
        return True
    return bool(file.problems) and _OUR_LINE.search(content) is not None


def _is_ours(root: Node) -> bool:
    return any(
        key.casefold() == "apiversion" and isinstance(value.content, str) and value.content.partition("/")[0] == GROUP
        for key, value in (root.content.items() if isinstance(root.content, dict) else ())
    )


def _read_file(file: YamlFile, content: bytes, folders: Folders, library: Library) -> _Read:
    ours = [document for document in file.documents if _is_ours(document.root)]
    broken = file.problems if ours or _OUR_LINE.search(content) else ()
    read = _Read.joined(
        [
            *(_read_document(document, folders, library) for document in ours),
            _Read(errors=_yaml_errors(broken, folders.file)),
        ]
    )
    if read.errors:
        written = tuple(model for model in read.written if isinstance(model, ClusterPolicy))
        return replace(read, services=(), written=written, errors=_fewer(read.errors))
    return read


def _fewer(errors: tuple[SpecError, ...]) -> tuple[SpecError, ...]:
    """Return the first errors of a file, and how many more there are."""
    found = sorted(set(errors))
    if len(found) <= MAX_ERRORS:
        return tuple(found)
    last = found[MAX_ERRORS]
    more = replace(last, message=f"and {len(found) - MAX_ERRORS} more from here on: mend those above first")
    return (*found[:MAX_ERRORS], more)


def _yaml_errors(problems: Iterable[YamlProblem], path: str) -> tuple[SpecError, ...]:
    return tuple(_error(path, (problem.line, problem.column), problem.message) for problem in problems)


def _error(path: str, mark: Mark, message: str) -> SpecError:
    """Return an error of one line: what users write may hold line breaks, be long, or a secret in the wrong place."""
    path = mark.file if isinstance(mark, FiledMark) else path
    flat = _CONTROL.sub(" ", masked_tokens(message))
    shown = flat if len(flat) <= MAX_MESSAGE else flat[: MAX_MESSAGE - 3] + "..."
    return SpecError(path=path, line=mark[0], column=mark[1], message=shown)


def _read_document(document: Document, folders: Folders, library: Library) -> _Read:
    root, misfits = document.root, tuple[Misfit, ...]()
    value = root.plain()
    problems = list(_header_problems(value))
    if not problems and is_composed(root):
        composed = compose(root, folders.file, folders.read, library)
        root, misfits = composed.root, composed.misfits
        value = root.plain()
    read = _Read()
    if not problems and value["kind"] == "Service":
        read, problems = _read_service(value, root, folders)
    elif not problems and value["kind"] == "ClusterPolicy":
        read, problems = _read_policy(value, root, folders.file)
    errors = _yaml_errors(document.problems, folders.file)
    taken = {(error.line, error.column) for error in errors}
    located = (_locate(problem, root, folders.file) for problem in problems)
    errors += tuple(error for error in located if (error.line, error.column) not in taken)
    if misfits:  # What was not merged is missing everywhere.
        errors = tuple(_error(misfit.file, misfit.mark, misfit.message) for misfit in misfits)
    return replace(read, errors=errors, services=() if errors else read.services)


def _locate(problem: Problem, root: Node, path: str) -> SpecError:
    return _error(path, root.locate(problem.path, at_key=problem.at_key), problem.message)


def _header_problems(value: dict[str, Any]) -> Iterator[Problem]:
    """A document of another version or kind is not looked into: its fields are not known."""
    written = next(key for key in value if key.casefold() == "apiversion")
    if "apiVersion" not in value:
        yield Problem(path=(written,), message=f'write "apiVersion" instead of "{written}"', at_key=True)
    elif value["apiVersion"] != API_VERSION:
        message = f"{describe(value['apiVersion'])} is not known here: write {API_VERSION}"
        yield Problem(path=("apiVersion",), message=message)
    kind = value.get("kind")
    if kind is None:
        message = f"the kind is missing: add kind: {' or kind: '.join(KINDS)}"
        yield Problem(path=("kind",), message=message, at_key=True)
    elif kind not in KINDS:
        near = did_you_mean(str(kind), KINDS)
        message = f"{describe(kind)} is not known here: write {near or ' or '.join(KINDS)}"
        yield Problem(path=("kind",), message=message)


def _read_service(value: dict[str, Any], root: Node, folders: Folders) -> tuple[_Read, list[Problem]]:
    model, found = validate(Service, value)
    spec = value["spec"] if isinstance(value.get("spec"), dict) else {}
    application = spec.get("application")
    rollout = _sound_part(spec.get("rollout", {}))
    packages, missing = application_packages(application, folders)
    between = [*application_problems(application), *missing]
    between += [*rollout_problems(rollout, application), *metric_problems(spec.get("analysis"))]
    between += placement_problems(spec.get("placement"), application)
    between += baseline_problems(spec.get("analysis"), rollout, application)
    known = {problem.path for problem in between}
    problems = [*between, *(problem for problem in found if problem.path not in known)]
    claims = tuple(_claims(value, spec, root, folders.file))
    needs = tuple(_needs(claims, spec, root))
    if model is None or problems:
        return _Read(claims=claims, needs=needs), problems
    source = SourceRef(path=folders.file, line=root.mark[0])
    return _Read(services=(desired_service(model, packages, source),), written=(model,), claims=claims, needs=needs), []


def _sound_part(rollout: Any) -> RolloutSpec:
    """Return a rollout without its malformed fields, so that rules between the others still speak up."""
    model, problems = validate(RolloutSpec, rollout)
    if model is None and isinstance(rollout, dict):
        wrong = {problem.path[0] for problem in problems if problem.path}
        model, _ = validate(RolloutSpec, {key: value for key, value in rollout.items() if key not in wrong})
    return model or RolloutSpec()


def _read_policy(value: dict[str, Any], root: Node, path: str) -> tuple[_Read, list[Problem]]:
    model, problems = validate(ClusterPolicy, value)
    settings = model.settings() if model is not None else None
    written = (model,) if model is not None else ()
    return _Read(policies=((path, root.locate(("kind",)), settings),), written=written), problems


def _claims(value: dict[str, Any], spec: dict[str, Any], root: Node, path: str) -> Iterator[_Claim]:
    metadata = value["metadata"] if isinstance(value.get("metadata"), dict) else {}
    name = metadata.get("name")
    if not isinstance(name, str):
        return
    mark = root.locate(("metadata", "name"))
    yield _Claim(kind="name", value=name, service=name, path=path, mark=mark)
    route = spec.get("route")
    is_written = isinstance(route, str)
    route_mark = root.locate(("spec", "route")) if is_written else mark
    written = str(route) if is_written else f"/{name}"
    yield _Claim(kind="route", value=written, service=name, path=path, mark=route_mark)


def _needs(claims: tuple[_Claim, ...], spec: dict[str, Any], root: Node) -> Iterator[Need]:
    listed = spec.get("dependsOn")
    for index, name in enumerate(listed if claims and isinstance(listed, list) else ()):
        if isinstance(name, str):
            line, column = root.locate(("spec", "dependsOn", index))
            yield Need(service=claims[0].service, name=name, path=claims[0].path, line=line, column=column)


def _circle_error(circle: tuple[Need, ...]) -> SpecError:
    """Return the error at the first link of a circle. It names all of it, but for the middle of a very long one."""
    first, links = circle[0], [f"{need.service} ({need.place})" for need in circle]
    if len(links) > MAX_LINKS:
        half = MAX_LINKS // 2
        links = [*links[:half], f"{len(links) - 2 * half} more", *links[-half:]]
    way = " -> ".join([*links, first.service])
    message = f"dependsOn goes round in a circle, so none of them could ever start: {way}"
    if circle[-1].name != first.service:
        message = f"dependsOn leads to {first.name} and on into circles of very many services: take them apart"
    return SpecError(path=first.path, line=first.line, column=first.column, message=_CONTROL.sub(" ", message))


def _doubles(claims: Iterable[_Claim]) -> tuple[list[SpecError], frozenset[str]]:
    """Return an error at each place of a name or route taken twice, and the services involved."""
    takers: dict[tuple[str, str], list[_Claim]] = {}
    for claim in claims:
        takers.setdefault((claim.kind, claim.value), []).append(claim)
    errors, disputed = [], set()
    for (kind, value), rivals in takers.items():
        is_same_name = kind == "route" and len({rival.service for rival in rivals}) == 1
        if len(rivals) < 2 or is_same_name:
            continue
        shown = rivals[: MAX_RIVALS + 1]
        for rival in rivals:
            others = ", ".join([other.place for other in shown if other is not rival][:MAX_RIVALS])
            others += f" and {len(rivals) - 1 - MAX_RIVALS} more" if len(rivals) - 1 > MAX_RIVALS else ""
            message = f'the {kind} "{value}" is also taken at {others}: give each service its own {kind}'
            errors.append(_error(rival.path, rival.mark, message))
            disputed.add(rival.service)
    return errors, frozenset(disputed)


def _settings(
    policies: tuple[tuple[str, Mark, ClusterSettings | None], ...],
) -> tuple[ClusterSettings | None, list[SpecError]]:
    """Return the one policy of the cluster, or None. With several, none counts."""
    if not policies:
        return None, []
    if len(policies) == 1:
        return policies[0][2], []
    places = [f"{path}:{line}:{column}" for path, (line, column), _ in policies]
    errors = []
    for (path, mark, _), place in zip(policies, places, strict=True):
        others = ", ".join(other for other in places if other != place)
        message = f"a repository has at most one ClusterPolicy, there are more at {others}: keep one of them"
        errors.append(_error(path, mark, message))
    return None, errors
