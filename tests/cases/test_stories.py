"""Golden stories: what people do, and every event that follows, to be read as a description of the product.

After a change on purpose, HELIOSTAT_RETELL=1 writes the events as they are now; read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cases.stage import Stage, read_story

STORIES = sorted(Path(__file__).parent.glob("*.yaml"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
async def test_goes_as_told(path: Path) -> None:
    story = read_story(path)
    stage = Stage(story.get("service", {}))
    await stage.sim.start()
    for scene in story["scenes"]:
        for line in scene["do"]:
            await stage.play(line)
        happened = "".join(f"{line}\n" for line in stage.news())
        if os.environ.get("HELIOSTAT_RETELL"):
            scene["then"] = happened
        assert happened == scene.get("then", ""), stage.sim.describe()
        for name, wanted in scene.get("see", {}).items():
            seen = stage.picture(name)
            assert {key: seen.get(key) for key in wanted} == wanted, stage.sim.describe()
    if os.environ.get("HELIOSTAT_RETELL"):
        path.write_text(_written(story))


def _written(story: dict[str, Any]) -> str:
    """Return the file's text, laid out for reading."""
    lines = [f"story: {story['story']}", f"service: {_flow(story['service'])}", "scenes:"]
    for scene in story["scenes"]:
        lines.append(f"- do: {_flow(scene['do'])}")
        if scene["then"]:
            lines.append("  then: |")
            lines += [f"    {line}" for line in scene["then"].splitlines()]
        if "see" in scene:
            lines.append("  see:")
            lines += [f"    {name}: {_flow(picture)}" for name, picture in scene["see"].items()]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()
