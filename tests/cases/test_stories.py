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
        happened = stage.news()
        if os.environ.get("HELIOSTAT_RETELL"):
            scene["then"] = happened
        assert happened == scene.get("then", []), stage.sim.describe()
        for name, wanted in scene.get("see", {}).items():
            seen = stage.picture(name)
            assert {key: seen.get(key) for key in wanted} == wanted, stage.sim.describe()
    if os.environ.get("HELIOSTAT_RETELL"):
        path.write_text(_dumped(story))


def _dumped(story: dict[str, Any]) -> str:
    return yaml.safe_dump(story, sort_keys=False, width=110, allow_unicode=True)
