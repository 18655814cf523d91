"""The commands that the README and the demo tell a user to type, taken from where the user reads them."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"

HEADING = "## Try it yourself"
COMMENT = re.compile(r"(^|\s+)# .*")
PROMPTED = re.compile(r"^ {4}(\S.*)$", re.M)


def readme_commands() -> list[str]:
    """Return the commands under the README's heading, without comments."""
    section = README.read_text().partition(f"{HEADING}\n")[2]
    block = section.partition("```sh\n")[2].partition("```")[0]
    lines = (COMMENT.sub("", line).strip() for line in block.splitlines())
    return [line for line in lines if line]


def printed_commands(narration: str) -> list[str]:
    """Return the commands that a demo printed after "Your turn"."""
    return PROMPTED.findall(narration.partition("Your turn.")[2])
