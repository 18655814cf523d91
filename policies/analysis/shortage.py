"""What is missing for a verdict, in requests."""

from __future__ import annotations

import math
from dataclasses import replace

from policies.analysis.words import many
from specs.analysis import Outcome, Verdict


def shortage(verdict: Verdict, min_requests: int) -> Verdict | None:
    """Return an inconclusive verdict when either revision had fewer than `min_requests`; else None."""
    candidate, stable = verdict.candidate_samples, verdict.stable_samples
    if candidate >= min_requests <= stable:
        return None
    needed = max(min_requests - candidate, 0)
    if stable and stable < min_requests:
        # The stable revision's come at the pace that they came at so far, counted in the candidate's.
        needed = max(needed, math.ceil((min_requests - stable) * candidate / stable))
    who = "the candidate" if candidate < min_requests else "the stable revision"
    message = f"{verdict.message}: {who} needs {many(min_requests)} to be judged"
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, message=message, needed=needed)


def until_sure(verdict: Verdict, log_e: float, alpha: float) -> Verdict:
    """Return an inconclusive verdict on a candidate that looks worse without that being sure yet.

    Evidence grows in proportion to the requests as long as the difference stays what it seems to be.
    """
    needed = max(math.ceil(verdict.candidate_samples * (-math.log(alpha) / log_e - 1)), 1)
    message = f"{verdict.message}: this looks worse, about {many(needed)} more requests will tell"
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, message=message, needed=needed)
