"""Whether a candidate's traffic says that it is worse than the stable revision: statistics, pure."""

from policies.analysis.judge import judge, with_bounds
from policies.analysis.windows import append

__all__ = ["append", "judge", "with_bounds"]
