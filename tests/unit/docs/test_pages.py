"""The pages say what the code says: every reason, setting, metric and link."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from reconciler.cli.run import OPTIONS, run
from reconciler.metrics import Metrics
from reconciler.settings import PARSERS, PREFIX, TOKEN_FILE
from specs.application import application_problems
from specs.reasons import Reason
from specs.service import Service

ROOT = Path(__file__).parents[3]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
COMPACTION = (ROOT / "docs" / "compaction.md").read_text()
TRUST = (ROOT / "docs" / "trust.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def rows(heading: str, page: str = OPERATIONS) -> list[str]:
    """Return the first cells of the table with this header line, code marks taken off."""
    _, _, below = page.partition(f"| {heading} |")
    lines = below.splitlines()[2:]
    table = lines[: next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [name for line in table for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


def test_every_reason_is_explained_once() -> None:
    assert sorted(rows("reason")) == sorted(reason.value for reason in Reason)


def test_every_setting_is_listed_with_its_flag_and_variable() -> None:
    flags = {word for option in run.params for word in option.opts if word.startswith("--")}
    assert len(flags) >= len(OPTIONS)
    assert {*rows("flag"), *rows("flag", TRUST), *rows("flag", COMPACTION)} == flags - {"--config", "--help"}
    for name in PARSERS.keys() | {TOKEN_FILE}:
        assert PREFIX + name.upper() in OPERATIONS + TRUST + COMPACTION


def test_every_metric_that_is_listed_exists() -> None:
    source = (ROOT / "reconciler" / "metrics.py").read_text()
    listed = rows("metric")
    assert len(listed) >= 15
    for name in listed:
        stem = name.removeprefix("heliostat_").removesuffix("_total")
        assert f'"{stem}"' in source or f'"heliostat_{stem}"' in source, name
    assert b"heliostat_leader" in Metrics().render()


def test_every_metric_that_exists_is_listed() -> None:
    source = (ROOT / "reconciler" / "metrics.py").read_text()
    registered = re.findall(r'(?:_counter|_gauge|Histogram|MetricFamily)\(\s*f?"(?:heliostat_)?(\w+)"', source)
    stems = {name.removeprefix("heliostat_").removesuffix("_total") for name in rows("metric")}
    assert len(registered) >= 15
    assert set(registered) <= stems


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_of_a_table_has_as_many_cells_as_its_first(page: Path) -> None:
    cells = 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        bars = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) if line.startswith("|") else 0
        assert not (cells and bars) or bars == cells, f"{page.name}:{number}: {line}"
        cells = bars


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_spec_in_the_readme_is_valid() -> None:
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert text is not None
    service = Service.model_validate(yaml.safe_load(text[1]))
    assert list(application_problems(yaml.safe_load(text[1])["spec"]["application"])) == []
    assert service.metadata.name == "chat"
