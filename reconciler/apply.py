"""Effects, done in order. There are no choices here but one: what must not happen after a failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from reconciler.errands import Errands
from reconciler.errors import PortError, Retry
from reconciler.patience import Patience
from reconciler.ports import Ports
from specs.effects import (
    ConsultPolicy,
    Effect,
    MeasureMetric,
    PostQuestion,
    PutServeConfig,
    SaveMemory,
    ScaleDeployment,
    SetRoutes,
    TendStaging,
    UploadPackage,
)
from specs.reasons import Reason

Awaited = UploadPackage | PutServeConfig | ScaleDeployment | SetRoutes
"""Effects that are over when the turn goes on."""


@dataclass(kw_only=True)
class Results:
    """What became of a tick's effects. `problems` are per service, or "" for all of them."""

    problems: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    missing_packages: set[str] = field(default_factory=set)
    done: list[Effect] = field(default_factory=list)
    is_saved: bool = True
    """False when Memory could not be saved: nothing after it was tried."""


async def apply(
    ports: Ports, effects: Sequence[Effect], deployed: frozenset[str], errands: Errands, patience: Patience
) -> Results:
    """Do the effects. `deployed` are the applications that Serve shows now, `errands` take what others are asked.

    A failed save ends it: an effect without its saved intent could not be found again. Any other
    failure is that service's problem, tried again as soon as `patience` allows, and stops nobody else.
    """
    results = Results()
    now = ports.clock.now()
    patience.keep(effect for effect in effects if not isinstance(effect, SaveMemory))
    for effect in effects:
        try:
            if isinstance(effect, PostQuestion | MeasureMetric | ConsultPolicy | TendStaging):
                errands.begin(effect)
            elif isinstance(effect, SaveMemory):
                await ports.store.save(effect)
            else:
                patience.ask(effect, now)
                await _do(ports, effect, deployed, results)
                patience.done(effect)
            results.done.append(effect)
        except PortError as error:
            patience.refused(effect, error, now)
            if isinstance(effect, UploadPackage):
                results.missing_packages.add(effect.package.uri)
            service, reason = _blame(effect, error)
            results.problems[service] = (reason, error.reason)
            if isinstance(effect, SaveMemory):
                results.is_saved = False
                return results
    return results


async def _do(ports: Ports, effect: Awaited, deployed: frozenset[str], results: Results) -> None:
    match effect:
        case UploadPackage():
            await _upload(ports, effect)
        case SetRoutes(table=table):
            await ports.gateway.route(table)
        case ScaleDeployment(application=application, deployment=deployment, target=target):
            await ports.serve.scale(application, deployment, target)
        case PutServeConfig():
            change = _without_missing_packages(effect, deployed, results.missing_packages)
            await ports.serve.put(change)
        case _:
            assert_never(effect)


async def _upload(ports: Ports, effect: UploadPackage) -> None:
    uri = effect.package.uri
    if not await ports.packages.has(uri):
        await ports.packages.upload(uri, await ports.source.package(effect.package))


def _without_missing_packages(change: PutServeConfig, deployed: frozenset[str], missing: set[str]) -> PutServeConfig:
    """Leave out new applications whose code is not in the cluster: Serve would call their build failed."""
    kept = tuple(
        application
        for application in change.applications
        if application.name in deployed or not any(uri in application.config for uri in missing)
    )
    return replace(change, applications=kept)


def _blame(effect: Effect, error: PortError) -> tuple[str, Reason]:
    """Return whose problem a failed effect is, and what to call it."""
    refused = Reason.SERVE_BUSY if isinstance(error, Retry) else Reason.INVALID_DOCUMENT
    match effect:
        case SaveMemory() | TendStaging():  # The latter is an errand: what fails of it is seen at a later look.
            return "", Reason.STORE_FAILED
        case UploadPackage(service=service):
            return service, Reason.PACKAGE_FAILED
        case SetRoutes():
            return "", Reason.GATEWAY_UNREACHABLE
        case ScaleDeployment(service=service):
            return service, refused
        case PutServeConfig():
            return "", refused
        case PostQuestion() | MeasureMetric() | ConsultPolicy():
            return "", Reason.GATE_UNANSWERED  # Never: sending them cannot fail, only their outcome can.
        case _:
            assert_never(effect)
