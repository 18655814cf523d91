"""Statuses, histories, events and nodes as text for a terminal of 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from reconciler.api import views
from reconciler.api.wording import ago, count, percent, seconds, short_commit, span, staging_text
from reconciler.cli.terminal import clean, indented, room, shortened, table, toned
from specs.memory import Event, HistoryEntry, Outcome
from specs.observed import Node, ReplicaState
from specs.placement import MARKET_LABEL
from specs.reasons import Reason
from specs.seats import Seat
from specs.status import AnalysisStatus, ClusterStatus, Phase, PlacingStatus, ServiceStatus, StagingStatus

OLD = timedelta(seconds=60)
"""A younger reading of Git needs no mention."""

OUTCOME_TONES = {
    Outcome.DEPLOYED: "good",
    Outcome.PROMOTED: "good",
    Outcome.ROLLED_BACK: "bad",
    Outcome.SUPERSEDED: "quiet",
    Outcome.REMOVED: "quiet",
}


def cluster_text(cluster: ClusterStatus, now: datetime) -> str:
    """Return one line per service, below what is wrong with the view as a whole."""
    parts = [_head(cluster, now), *_troubles(cluster, now)]
    if not cluster.services:
        return "\n".join([*parts, "", "no services yet: commit a file with `kind: Service` to the watched branch"])
    rows = [
        [
            toned(service.name, "", bold=True),
            toned(service.health.value, views.TONES[service.health]),
            _shares(service),
            f"{service.replicas.ready}/{service.replicas.target}",
            toned(service.reason.value, views.service_view(service).tone),
        ]
        for service in cluster.services
    ]
    head, *lines = table(["SERVICE", "HEALTH", "REVISIONS", "READY", "REASON"], rows).splitlines()
    told = [part for service, line in zip(cluster.services, lines, strict=True) for part in (line, _why(service))]
    return "\n".join([*parts, "", head, *filter(None, told)])


def service_text(cluster: ClusterStatus, service: ServiceStatus, now: datetime) -> str:
    """Return everything about one service."""
    view = views.service_view(service)
    badges = " · ".join(
        [
            toned(service.health.value, view.health_tone, bold=True),
            toned(service.sync.value, view.sync_tone),
            *([] if service.phase.value in (Phase.STEADY, service.health.value) else [service.phase.value]),
        ]
    )
    parts = [
        f"{toned(service.name, '', bold=True)}  {service.route}  {badges}",
        f"{toned(service.reason.value, view.tone)}: {clean(view.message.line)}",
        *_troubles(cluster, now),
        "",
        *_facts(service, now),
    ]
    if view.shares:
        parts += ["", _traffic(view.shares)]
    if service.analysis is not None:
        parts += ["", *_analysis(service.analysis)]
    if service.staging is not None:
        parts += ["", *staging_lines(service.staging)]
    if view.cells:
        parts += ["", _cells(view)]
    parts += _places(service)
    if view.quarantine is not None:
        parts += ["", *_quarantine(service, view.quarantine.reason, view.quarantine.message)]
    return "\n".join(parts)


def history_text(entries: tuple[HistoryEntry, ...]) -> str:
    """Return one line per ended rollout."""
    rows = [
        [
            entry.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            entry.revision,
            toned(entry.outcome.value, OUTCOME_TONES[entry.outcome]),
            span(entry.at - entry.started_at) if entry.started_at else "",
            clean(views.excerpt(entry.message).line),
        ]
        for entry in entries
    ]
    return table(["ENDED", "REVISION", "OUTCOME", "TOOK", "MESSAGE"], rows)


def event_text(event: Event, *, service_width: int = 12) -> str:
    """Return one event as one line (its message may be cut: `-o json` has all of it)."""
    stamp = toned(event.at.astimezone().strftime("%m-%d %H:%M:%S"), "quiet")
    kind = toned(event.kind, "bad" if event.is_warning else "busy")
    by = "" if event.by == "heliostat" else f" (by {clean(event.by)})"
    message = clean(views.excerpt(event.message).line) + by
    start = f"{event.service or 'cluster':<{service_width}}"
    width = room()
    if width is not None:
        message = shortened(message, max(20, width - 14 - 2 - service_width - 2 - len(event.kind) - 2))
    return f"{stamp}  {toned(start, '', bold=True)}  {kind}  {message}".rstrip()


def nodes_text(nodes: tuple[Node, ...], seats: tuple[Seat, ...]) -> str:
    """Return one line per node with what is on it, and below how many replicas wait for one."""
    rows = [
        [
            node.ip,
            _node_state(node),
            node.zone or "-",
            node.labels.get(MARKET_LABEL, "-"),
            *(f"{node.resources.get(kind, 0):g}" for kind in ("CPU", "GPU")),
            node.id[:12],
            _seats(seat for seat in seats if seat.node == node.id),
        ]
        for node in sorted(nodes, key=lambda node: (not node.is_head, node.zone or "", node.ip))
    ]
    head = ["ADDRESS", "STATE", "ZONE", "MARKET", "CPU", "GPU", "ID", "REPLICAS"]
    waiting = [seat for seat in seats if not seat.node]
    told = [f"waiting for a node: {_seats(waiting)}"] if waiting else []
    return "\n".join([table(head, rows, right=frozenset({4, 5})), *told])


def _seats(seats: Iterable[Seat]) -> str:
    """Return `chat 3f9a1c2 x2, search 77c01d9` of the replicas somewhere; starting and stopping ones say so."""
    counts: Counter[str] = Counter()
    for seat in seats:
        name = f"{seat.service} {seat.revision[:7]}" if seat.service else clean(seat.application)
        doing = "" if seat.state is ReplicaState.RUNNING else f" {seat.state.value.lower()}"
        counts[name + (" leaving" if seat.is_migrating else doing)] += 1
    return ", ".join(f"{name} x{number}" if number > 1 else name for name, number in counts.items()) or "-"


def _head(cluster: ClusterStatus, now: datetime) -> str:
    commit = short_commit(cluster.commit) if cluster.commit else "no commit yet"
    age = timedelta(seconds=cluster.git_age_seconds or 0)
    read = f" (read {span(age)} ago)" if age >= OLD else ""
    return f"{toned(cluster.cluster, '', bold=True)} · {commit}{read} · Ray {views.sight(cluster, now)}"


def _troubles(cluster: ClusterStatus, now: datetime) -> list[str]:
    wrong = [toned(f"! {clean(warning)}", "bad") for warning in views.warnings(cluster, now)]
    return wrong + [toned(f"! {clean(error)}", "warn") for error in cluster.errors]


def _why(service: ServiceStatus) -> str:
    """Return the message on a line of its own, "" when all is as it should be."""
    if service.reason is Reason.STEADY or not service.message:
        return ""
    line = f"  {message_line(service)}"
    return shortened(line, room() or len(line))


def message_line(service: ServiceStatus) -> str:
    """Return the most telling line of a service's message."""
    return clean(views.excerpt(service.message).line)


def _shares(service: ServiceStatus) -> str:
    """Return the revisions that get requests, or the one that is to come."""
    shares = [f"{revision[:7]} {percent(weight)}" for revision, weight in service.weights.items()]
    if shares:
        return " ".join(shares)
    return f"({service.candidate[:7]})" if service.candidate else "-"


def _facts(service: ServiceStatus, now: datetime) -> list[str]:
    counts = service.replicas
    own = f", {counts.serve_surplus} more started by Serve itself" if counts.serve_surplus else ""
    facts = [f"{'commit':<10}{short_commit(service.commit) or '-'}"]
    if service.step is not None:
        step = service.step
        place = f"{step.index + 1} of {step.count}: {step.text}" if step.index < step.count else "all done, to 100%"
        ends = f", ends {ago(step.until, now)}" if step.until else ""
        facts.append(f"{'step':<10}{place}{ends}")
    facts.append(
        f"{'replicas':<10}{counts.ready} ready of {counts.target}, {counts.live} live, at most {counts.peak}{own}"
    )
    if service.crossing is not None:
        crossing = service.crossing
        text = f"{percent(crossing.percent)} of the last minute's requests left zone {crossing.zone}, the gateway's own"
        facts.append(f"{'crossing':<10}{text}")
    if service.target and service.target not in (service.stable, service.candidate):
        facts.append(f"{'wanted':<10}{service.target}")
    return facts


def _traffic(shares: tuple[views.Share, ...]) -> str:
    rows = []
    for share in shares:
        seen = share.traffic
        numbers = ["-"] * 5
        if seen is not None:
            errors = toned(count(seen.errors), "bad" if seen.errors else "")
            numbers = [count(seen.requests), errors, count(seen.aborted), seconds(seen.p50), seconds(seen.p99)]
        rows.append([share.revision, share.role, percent(share.weight), *numbers])
    head = ["REVISION", "ROLE", "SHARE", "REQUESTS", "ERRORS", "ABORTED", "P50", "P99"]
    return table(head, rows, right=frozenset(range(2, 8)))


def _analysis(found: AnalysisStatus) -> list[str]:
    """Return the verdict, and what each measure says."""
    lines = [f"{'analysis':<10}{toned(found.outcome.value, views.VERDICT_TONES[found.outcome])}"]
    for verdict in found.verdicts:
        more = f" ({count(verdict.needed)} more requests needed)" if verdict.needed else ""
        lines.append(indented(f"{verdict.message}{more}"))
    return lines if found.verdicts else [*lines, indented(found.message)]


def staging_lines(found: StagingStatus) -> list[str]:
    """Return how the weights' way to the nodes is getting on, and which they are."""
    state = toned(found.state.value, views.STAGING_TONES[found.state])
    far = staging_text(found)
    lines = [f"{'weights':<10}{state}{f', {far}' if far else ''}", *(indented(clean(uri)) for uri in found.uris)]
    return [*lines, indented(clean(views.excerpt(found.message).line))] if found.message else lines


def _cells(view: views.ServiceView) -> str:
    rows = [
        [
            f"{cell.state.name} (baseline)" if cell.state.baseline else cell.state.name,
            toned(cell.state.status, cell.tone),
            percent(cell.state.weight),
            ", ".join(f"{entry.name} {entry.ready}/{entry.target}" for entry in cell.state.deployments) or "-",
        ]
        for cell in view.cells
    ]
    return table(["CELL", "STATUS", "SHARE", "READY"], rows, right=frozenset({2}))


def _places(service: ServiceStatus) -> list[str]:
    """Return where the replicas are, and who wishes that."""
    found = ([_zones(service)] if service.zones else []) + ([_markets(service)] if service.markets else [])
    wished = ["", *placing_lines(service.placing)] if service.placing is not None else []
    return [*(line for text in found for line in ("", text)), *wished]


def _zones(service: ServiceStatus) -> str:
    rows = [
        [
            found.zone,
            toned(found.state, "good" if found.state == "open" else "warn"),
            str(found.ready),
            percent(found.weight),
            found.message or "-",
        ]
        for found in service.zones
    ]
    return table(["ZONE", "STATE", "READY", "SHARE", "UNUSED BECAUSE"], rows, right=frozenset({2, 3}))


def _markets(service: ServiceStatus) -> str:
    rows = [
        [found.market, f"{found.ready}/{found.wanted}", percent(found.weight), found.message or "-"]
        for found in service.markets
    ]
    return table(["MARKET", "READY", "SHARE", "FEWER THAN ASKED FOR BECAUSE"], rows, right=frozenset({1, 2}))


def placing_lines(found: PlacingStatus) -> list[str]:
    """Return what a placement policy of another package wishes, and what of it is not followed."""
    weights = ", ".join(f"{zone} {weight}" for zone, weight in sorted(found.zones.items())) or "even"
    parts = [f"zones {weights}", *([f"{found.on_demand}% on demand"] if found.on_demand else [])]
    since = f" since {found.since.astimezone():%H:%M:%S}" if found.since is not None else ""
    wish = f"{', '.join(parts)}{since}" if found.since is not None else "no wish yet"
    said = (clean(text) for text in (found.message, found.note) if text)
    return [f"{'placement':<10}{found.policy}: {wish}", *map(indented, said)]


def _quarantine(service: ServiceStatus, reason: str, message: str) -> list[str]:
    return [
        f"{toned('quarantined', 'bad')} {', '.join(service.quarantined)}: {reason}",
        indented(clean(message).strip()),
        f"not tried again until a commit changes it, or: heliostat retry {service.name}",
    ]


def _node_state(node: Node) -> str:
    if not node.is_alive:
        return toned("dead", "bad")
    if node.preemption is not None:
        return toned(f"goes {node.preemption.deadline.astimezone():%H:%M:%S}", "bad")
    if node.is_draining:
        return toned("draining", "warn")
    return toned("head" if node.is_head else "alive", "good")
