"""`heliostat compaction`: which nodes could go, and why the others not."""

from __future__ import annotations

import click

from reconciler.cli.client import Daemon, caller, connection, output_option
from reconciler.cli.replies import as_json, read
from reconciler.cli.terminal import clean, indented, table, toned
from specs.compaction import CompactionStatus, PlannedNode

TONES = {"Draining": "busy", "Waiting": "warn", "Compact": "good", "Blind": "bad"}


@click.command()
@click.option("--apply", is_flag=True, help="Carry the plan out once, whatever `enabled` says in the ClusterPolicy.")
@click.option("--by", default=None, help="Who acts, for events.  [default: USER@HOST]")
@output_option
@connection
def compaction(apply: bool, by: str | None, output: str, daemon: Daemon) -> None:
    """Show which nodes could be emptied, where their replicas would go, and why no more can.

    Without --apply nothing is done.
    """
    if not apply:
        document = daemon.get("/compaction")
        click.echo(as_json(document) if output == "json" else plan_text(read(CompactionStatus, document)))
        return
    answer = daemon.post("/compaction/apply", {"by": by or caller()})
    click.echo(as_json(answer) if output == "json" else f"the plan is carried out (event {answer['event']})")
    if output != "json":
        click.echo("follow it with: heliostat events --follow", err=True)


def plan_text(status: CompactionStatus) -> str:
    """Return the plan for a terminal of 80 columns."""
    head = f"{toned(status.state, TONES.get(status.state, 'quiet'), bold=True)}: {clean(status.message)}"
    parts = [head, *_under_way(status)]
    if not status.nodes:
        return "\n".join(parts)
    going = [node for node in status.nodes if node.goes]
    replicas = sum(node.replicas for node in going)
    saved = status.cost - status.cost_after
    share = f" ({saved / status.cost:.0%} less)" if saved > 0 else ""
    parts += [
        "",
        f"{'nodes':<10}{len(status.nodes)} now, {len(status.nodes) - len(going)} afterwards; {replicas} replicas move",
        f"{'cost':<10}{status.cost:g} now, {status.cost_after:g} afterwards{share}",
        f"{'bound':<10}{_bound(status)}",
    ]
    if status.policy:
        parts.append(f"{'policy':<10}{status.policy}: {clean(status.wish)}")
    if status.reserves:
        parts.append(f"{'kept free':<10}room for {', '.join(status.reserves)}")
    parts += ["", table(["ADDRESS", "ZONE", "PRICE", "REPLICAS", "PLAN", "WHY"], [_row(node) for node in status.nodes])]
    if status.moves:
        parts += ["", "moves (Serve chooses the places itself; these show that there is room)"]
        parts += [
            indented(f"{move.count} x {move.deployment} of {move.cell}  {move.origin} -> {move.target}")
            for move in status.moves
        ]
    return "\n".join(parts)


def _bound(status: CompactionStatus) -> str:
    if status.is_best:
        return f"no plan is cheaper than {status.cost_after:g}"
    return f"no plan costs less than {status.bound:g}; this one is at most {status.gap:.1%} above the best"


def _row(node: PlannedNode) -> list[str]:
    plan = toned("goes", "good") if node.goes else "stays"
    return [node.ip, node.zone or "-", f"{node.price:g}", str(node.replicas), plan, clean(node.why)]


def _under_way(status: CompactionStatus) -> list[str]:
    lines = [
        f"{'emptying':<10}{drain.ip} since {drain.since:%H:%M:%S} UTC, {drain.replicas} replicas left ({drain.state})"
        for drain in status.drains
    ]
    lines += [
        toned(f"{'given up':<10}{entry.ip} at {entry.at:%H:%M:%S} UTC: {clean(entry.why)}", "warn")
        for entry in status.given_up
    ]
    return lines + ([f"{'freed':<10}{status.freed} node(s) so far"] if status.freed else [])
