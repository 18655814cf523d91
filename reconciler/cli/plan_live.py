"""Plans that a daemon makes: how a commit of a checkout would go on the live cluster."""

from __future__ import annotations

from dataclasses import replace

from reconciler.adapters.git_checkout import Checkout
from reconciler.cli.client import Daemon, checked_server
from reconciler.cli.replies import read
from reconciler.planning.changes import changes
from specs.planned import PlannedChange

PATIENCE = 120.0
"""Seconds: a daemon looks thousands of turns ahead."""


def live(checkout: Checkout, head: str, server: str, token: str | None) -> PlannedChange:
    """Return what a daemon says of a commit: compared with the one that it holds to, and how it would go."""
    daemon = Daemon(server=checked_server(server), token=token)
    change = read(PlannedChange, daemon.post("/plan", checkout.proposal(head), PATIENCE))
    return _with_files(change, checkout, head)


def _with_files(change: PlannedChange, checkout: Checkout, head: str) -> PlannedChange:
    """Return the change with the files of packages that differ, where this checkout has the daemon's commit."""
    if not checkout.has(change.base.sha):
        return change
    here = changes(checkout.specs(change.base.sha), checkout.specs(head), checkout.packaged)
    files = {service.name: service.files for service in here.services}
    services = tuple(replace(service, files=files.get(service.name, ())) for service in change.services)
    return replace(change, services=services)
