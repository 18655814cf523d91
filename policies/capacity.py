"""Replicas: how many each revision is to have now (invariant I2), capacity following the traffic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from policies.baseline import fresh_line, fresh_share, is_pending
from policies.budget import Budget
from policies.counsel import aim
from policies.layout import Layout
from policies.resources import shortages
from policies.shares import departures, is_stuck
from policies.traffic import comes_first, heir
from policies.view import CellView, ServiceView
from policies.zones import apportion
from specs.desired import AutoScale
from specs.routes import FULL, ROUNDING


def share_of(weight: int, replicas: int) -> int:
    """Return how many of `replicas` carry `weight` basis points, rounded up."""
    return -(-weight * replicas // FULL)


def carriers_of(weight: int, replicas: int) -> int:
    """Return how many of `replicas` carry what is left of a share that was rounded to basis points.

    One of them is forgiven: two replicas of three are ready for 6666 points, the third keeps 3334 and is still
    one replica, not two.
    """
    return max(1, share_of(weight - ROUNDING, replicas)) if weight > 0 else 0


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One deployment's counts: per cell what is to be commanded now, per revision where that leads.

    `room` is what the budget allows beyond that; negative when above it. `is_tight`: somebody waits for room.
    """

    cells: Mapping[str, int]
    goal: Mapping[str, int]
    room: int
    is_tight: bool


@dataclass(kw_only=True)
class _Post:
    """One deployment of one cell while its count is decided: `now` changes, all else is as found."""

    cell: CellView
    now: int
    aim: int
    unheard: int
    """Growth that was commanded, and is counted, though Serve does not work towards it yet."""
    unstarted: int
    """Replicas that nobody misses: Serve stops first what has not started, and a cell that lacks a deployment has no
    requests."""
    least: int
    """What a cell that leaves keeps until it leaves as a whole; one that does not answer need not."""
    is_leaving: bool
    crowd: int
    """Replicas of all revisions in the same place."""
    is_scarce: bool
    """Whether the cell could carry more with more of these."""
    turn: int = 0
    """Of a revision that leaves everywhere the cell with the highest goes first, with all of its deployments."""

    @property
    def surplus(self) -> int:
        return max(0, self.now - max(self.aim, self.least))

    @property
    def deficit(self) -> int:
        return max(0, self.aim - self.now)

    def give(self, count: int) -> None:
        self.now -= count
        self.unstarted = max(0, self.unstarted - count)


def goal_counts(view: ServiceView, deployment: str, goal: Mapping[str, int]) -> Mapping[str, int]:
    """Return the counts per revision that carry `goal` (basis points) within the budget.

    With M = N - maxUnavailable, ceil(wM) + ceil((1-w)M) <= M + 1 <= N + maxSurge, so both always fit. With what is on
    its way out they may not: then the candidate's first replicas have to wait, or come first.
    """
    counts, between = _counts_at(view, deployment, goal), heir(view)
    if between is None or not comes_first(view):
        return counts
    others = sum(view.followed(line, deployment) for line in view.revisions if line != between)
    left = view.budget(deployment).ceiling - others - _pending_start(view, deployment)
    return {**counts, between: max(0, min(counts[between], left))}


def _counts_at(view: ServiceView, deployment: str, goal: Mapping[str, int]) -> dict[str, int]:
    budget = view.budget(deployment)
    stable, candidate = heir(view) or view.memory.stable, view.memory.candidate
    counts = dict.fromkeys(view.revisions, 0)
    if candidate is None:
        return counts | ({stable: budget.target} if stable is not None else {})
    if stable is None:
        return counts | {candidate: budget.target}
    if budget.stops_before_start:
        # Who is to take the requests back while the candidate waits for other room is not to wait for it, too.
        between = heir(view)
        is_taking = between is not None and view.weights[between] < FULL and not comes_first(view)
        return counts | {stable if is_taking else candidate: budget.target}
    weight, line = goal.get(candidate, 0), fresh_line(view)
    if line is not None or is_pending(view):
        return counts | _with_baseline(budget, (stable, candidate, line), weight)
    stable_needs = carriers_of(FULL - weight, budget.needed)
    most = max(budget.ceiling - stable_needs, share_of(weight, budget.needed))
    aimed = aim(view)
    wished = aimed.replicas.get(deployment, 0) if aimed is not None else 0
    counts[candidate] = max(1, min(max(share_of(weight, budget.target), wished), most))
    counts[stable] = max(budget.target - counts[candidate], stable_needs)
    return counts


def _with_baseline(budget: Budget, lines: tuple[str, str, str | None], weight: int) -> dict[str, int]:
    """Return the counts of stable, candidate and baseline, the latter two alike where the budget lets them.

    ceil(wM) + ceil(bM) + ceil((1-w-b)M) <= M + 2, which is the room that a baseline is asked to have.
    """
    stable, candidate, line = lines
    beside = fresh_share(weight)
    stable_needs = share_of(FULL - weight - beside, budget.needed)
    least = [max(1, share_of(share, budget.needed)) for share in (weight, beside)]
    wish = [max(1, share_of(share, budget.target)) for share in (weight, beside)]
    mine, fresh = wish if sum(wish) + stable_needs <= budget.ceiling else least
    rest = max(budget.target - mine - fresh, stable_needs)
    return {stable: rest, candidate: mine, **({line: fresh} if line is not None else {})}


def next_counts(
    view: ServiceView, deployment: str, goal: Mapping[str, int], weights: Mapping[str, int], layout: Layout
) -> Counts:
    """Return what to command now: shrink what carries too little to deserve it, grow into the room.

    `weights` are the basis points per revision about to be routed. A shrink never takes capacity that
    today's or the next weights need, nor serving replicas below N - maxUnavailable; a growth never
    exceeds N + maxSurge, counting replicas that are still stopping. What was commanded and Serve has not
    heard of (it could not be reached, say) is decided anew: the world may have changed since. What an
    outgoing revision or Serve's autoscaling has beyond its goal goes only when somebody needs the room.
    When all have their counts, and some of them in the wrong place, they move: the new one comes first.
    """
    budget = view.budget(deployment)
    target = goal_counts(view, deployment, goal)
    posts = {
        revision: _posts(view, revision, deployment, target[revision], layout)
        for revision in view.revisions
        if _has(view, revision, deployment)
    }
    _stand_in(view, deployment, posts, weights)
    room = view.room(deployment)
    fresh = fresh_line(view)
    wants = sum(max(0, target[revision] - _sum(mine)) for revision, mine in posts.items())
    for revision in sorted(posts, key=lambda line: line == fresh):
        mine = posts[revision]
        unheard = sum(post.unheard for post in mine)
        most = min(target[revision] - _sum(mine), room + unheard)
        if revision == view.memory.candidate and fresh in posts and target[fresh] > _sum(posts[fresh]):
            most = min(most, max(0, room - room // 2) + unheard)  # Its baseline grows beside it.
        growth = _grow(mine, most) or _grow_beyond(view, deployment, mine, most, layout)
        room += unheard - growth
        wants -= growth
    unmet = max(0, wants + _pending_start(view, deployment) - max(0, room))
    is_tight = unmet > 0
    spare = _spare(view, deployment, budget, weights, layout)
    for revision in reversed(posts):
        mine, is_routed = posts[revision], _is_routed(view, revision, weights)
        excess = max(0, _sum(mine) - max(target[revision], _carried(view, revision, weights, budget)))
        givers, excess = _givers(view, deployment, mine, excess, unmet)
        before = _sum(mine)
        lost = _shrink(givers, excess, spare if is_routed else excess)
        spare -= lost if is_routed else 0
        unmet = max(0, unmet - (before - _sum(mine)))
    if not is_tight:
        staying = {line: mine for line, mine in reversed(posts.items()) if not _leaves_by_retirement(view, line)}
        room = _moved(view, deployment, staying, layout, _Means(room=room, spare=spare))
    cells = {post.cell.name: post.now for mine in posts.values() for post in mine}
    return Counts(cells=cells, goal=target, room=room, is_tight=is_tight)


def _posts(view: ServiceView, revision: str, deployment: str, target: int, layout: Layout) -> list[_Post]:
    """Return a revision's cells; where it is not to stay anywhere, all are as good as each other."""
    cells = view.cells_of(revision)
    plan = layout.of(revision)
    even = apportion(target, {cell.name: cell.followed(deployment) for cell in cells}) if not plan else {}
    last = sorted(cells, key=lambda cell: (-view.capacity(cell), cell.name)) if not plan else []
    return [
        _Post(
            cell=cell,
            now=cell.followed(deployment),
            aim=layout.aim(cell, deployment) if plan else even[cell.name],
            unheard=max(0, cell.commanded(deployment) - cell.followed(deployment)),
            unstarted=max(0, cell.followed(deployment) - (cell.running(deployment) if _is_whole(cell) else 0)),
            least=1 if layout.is_leaving(cell) and cell.answers else 0,
            is_leaving=layout.is_leaving(cell),
            crowd=sum(o.projected(deployment) for o in view.cells if o.memory.key.site == cell.memory.key.site),
            is_scarce=Fraction(view.ready_in(cell, deployment), view.budget(deployment).needed) == view.capacity(cell),
            turn=last.index(cell) if not plan else 0,
        )
        for cell in cells
    ]


def _stand_in(view: ServiceView, deployment: str, posts: Mapping[str, list[_Post]], weights: Mapping[str, int]) -> None:
    """Let the cells that stay have what a revision carries, where those that leave give up no more room by parts.

    A cell leaves as a whole, when the others carry its requests. Without any surge these get the room for that from
    nobody else, and what they are to have in the end may be less: it waits for them.
    """
    budget = view.budget(deployment)
    for revision, mine in posts.items() if not budget.surge else ():
        leaving = [post.cell for post in mine if post.is_leaving and post.cell.answers]
        staying = [post for post in mine if not post.is_leaving and post.cell.answers]
        if not staying or not _hold_on(view, leaving):
            continue
        for _ in range(_carried(view, revision, weights, budget) - sum(post.aim for post in staying)):
            min(staying, key=lambda post: (post.aim, post.cell.name)).aim += 1


def _hold_on(view: ServiceView, leaving: list[CellView]) -> bool:
    """Return whether each of these cells has but one replica of a deployment that has no room."""
    names = {name for cell in leaving for name in cell.deployments}
    return any(view.room(name) < 1 and all(cell.followed(name) <= 1 for cell in leaving) for name in names)


def _is_whole(cell: CellView) -> bool:
    """Return whether each deployment runs: by Serve's word, for a gateway may be late."""
    return all(cell.running(name) for name in cell.deployments)


def _sum(posts: Iterable[_Post]) -> int:
    return sum(post.now for post in posts)


def _grow(posts: list[_Post], most: int) -> int:
    """Grow towards the aims by at most so many, where most are missing first; return by how many."""
    grown = 0
    while grown < most:
        post = max(posts, key=lambda post: post.deficit)
        if not post.deficit:
            break
        post.now += 1
        grown += 1
    return grown


def _grow_beyond(view: ServiceView, deployment: str, posts: list[_Post], most: int, layout: Layout) -> int:
    """Let a revision that is stuck have where it is what it is to have where it has no cell yet; return 0 or 1.

    Else the serving replicas that a cell of another revision waits for before it goes would never come.
    """
    line = posts[0].cell.line if posts else None
    able = [post for post in posts if post.is_scarce and post.cell.answers]
    if most < 1 or not able or line is None or not layout.missing(view, line):
        return 0
    if _makeable(view, line, deployment, layout) or not is_stuck(view, layout, line):
        return 0
    min(able, key=lambda post: (post.now, post.cell.name)).now += 1
    return 1


def _givers(view: ServiceView, deployment: str, posts: list[_Post], excess: int, unmet: int) -> tuple[list[_Post], int]:
    """Return which cells of a revision give up what is too much, and how much of it.

    What retires as a whole, and what Serve scales, gives what others need; autoscaled cells that leave go on to nothing
    all the same, for those that stay grow into their room.
    """
    line = posts[0].cell.line if posts else ""
    if not _keeps_excess(view, line, deployment):
        return posts, excess
    leaving = [post for post in posts if post.is_leaving and not _leaves_by_retirement(view, line)]
    if leaving and excess > unmet:
        return leaving, excess
    return posts, min(excess, unmet)


def _shrink(posts: list[_Post], excess: int, spare: int) -> int:
    """Take `excess` where most is too much; return how many serving replicas that costs, at most `spare`."""
    lost = 0
    for _ in range(excess):
        able = [post for post in posts if post.surplus and (post.unstarted or lost < spare)]
        if not able:
            break
        post = max(able, key=lambda post: (post.unstarted > 0, post.turn, post.surplus, post.crowd))
        lost += 0 if post.unstarted else 1
        post.give(1)
    return lost


@dataclass(frozen=True, kw_only=True)
class _Means:
    """What moves have: room in the budget, and serving replicas that may go."""

    room: int
    spare: int


def _moved(view: ServiceView, deployment: str, posts: Mapping[str, list[_Post]], layout: Layout, means: _Means) -> int:
    """Let what is in the wrong place move; return the room that is left."""
    room, spare, surge = means.room, means.spare, view.budget(deployment).surge
    for line, mine in posts.items():
        missing = _makeable(view, line, deployment, layout)
        if _may_move(view, mine, deployment):
            room -= _move(mine, missing, room)
        elif not missing:
            continue
        if room <= 0 and surge == 0 and spare > 0:
            spare -= _make_way(mine, missing)
    return room


def _makeable(view: ServiceView, line: str, deployment: str, layout: Layout) -> int:
    """Return how many cells are still to be created, and would be for some more room for this deployment.

    While another one has none replicas are of more use where they are: what was let grow there is not taken back.
    """
    others = [name for name in view.deployments_of(line) if name != deployment]
    if any(view.room(name) < 1 and not _makes_way(view, line, name, layout) for name in others):
        return 0
    return len(layout.missing(view, line))


def _makes_way(view: ServiceView, line: str, deployment: str, layout: Layout) -> bool:
    """Return whether replicas in the wrong place go first, as they do without any surge: there is about to be room.

    Not while a candidate waits for that room: nothing moves then.
    """
    if view.budget(deployment).surge or _pending_start(view, deployment):
        return False
    return any(
        cell.followed(deployment) > max(layout.aim(cell, deployment), 1 if layout.is_leaving(cell) else 0)
        for cell in view.cells_of(line)
    )


def _may_move(view: ServiceView, posts: list[_Post], deployment: str) -> bool:
    """Return whether replicas are moved from cell to cell: Serve scales autoscaled cells by what each of them gets."""
    return not isinstance(view.scale(deployment), AutoScale) or any(post.is_leaving for post in posts)


def _move(posts: list[_Post], missing: int, room: int) -> int:
    """Let replicas that are in the wrong place come up where they belong; return the room that takes.

    What has not started yet costs nothing to move. `missing` are the cells that are still to be created.
    """
    lacking = sum(post.deficit for post in posts) + missing
    for post in posts:
        free = min(lacking, post.surplus, post.unstarted)
        post.give(free)
        lacking -= free
    return _grow(posts, min(lacking, room))


def _make_way(posts: list[_Post], missing: int) -> int:
    """Without any surge the old replica goes first; return 1 when one goes."""
    lacking = sum(post.deficit for post in posts) + missing
    able = [post for post in posts if post.surplus and not post.unstarted]
    if not lacking or not able:
        return 0
    max(able, key=lambda post: (post.surplus, post.crowd)).give(1)
    return 1


def _has(view: ServiceView, revision: str, deployment: str) -> bool:
    return deployment in view.deployments_of(revision)


def _pending_start(view: ServiceView, deployment: str) -> int:
    """Return how many replicas wait for room while the candidate has no cell: its first, and its baseline's."""
    candidate = view.memory.candidate
    if candidate is None or view.cells_of(candidate):
        return 0
    return 2 if is_pending(view) else 1


def _keeps_excess(view: ServiceView, revision: str, deployment: str) -> bool:
    """Return whether what a revision has beyond its goal goes only when its own service has no room for others.

    On full nodes it goes at once: the stable revision waits for it, or another service that goes first.
    """
    rollout = view.memory.rollout
    if _leaves_by_retirement(view, revision):
        return not shortages(view, view.memory.stable)
    is_yielding = rollout is not None and bool(rollout.yields_to) and revision == view.memory.candidate
    return isinstance(view.scale(deployment), AutoScale) and not is_yielding


def _leaves_by_retirement(view: ServiceView, revision: str) -> bool:
    """Return whether a revision is outgoing: before it retires it only makes room that others need."""
    return revision not in (view.memory.stable, view.memory.candidate, fresh_line(view))


def _carried(view: ServiceView, revision: str, weights: Mapping[str, int], budget: Budget) -> int:
    """Return the replicas that a revision needs for what is routed to it now or next."""
    if budget.stops_before_start and view.memory.candidate is not None:
        return 0
    return carriers_of(max(view.weights[revision], weights.get(revision, 0)), budget.needed)


def _is_routed(view: ServiceView, revision: str, weights: Mapping[str, int]) -> bool:
    return view.weights[revision] > 0 or weights.get(revision, 0) > 0


def _spare(view: ServiceView, deployment: str, budget: Budget, weights: Mapping[str, int], layout: Layout) -> int:
    """Return how many serving replicas may go without falling below N - maxUnavailable.

    Serve chooses the victims of a shrink, so every one of them is taken for a serving replica. Cells that leave as a
    whole are as good as gone, those that lack a deployment get no requests, and a revision that loses its last ones in
    the same look cannot stand in for what another one gives up.
    """
    going = departures(view, layout, weights)
    staying = [revision for revision in view.revisions if weights.get(revision, 0) > 0]
    cells = [cell for revision in staying for cell in view.cells_of(revision) if cell.name not in going]
    serving = sum(
        min(len(cell.serving(deployment)), cell.followed(deployment))
        for cell in cells
        if cell.answers and not cell.is_draining
    )
    return max(0, serving - (budget.target - budget.unavailable))
