"""`heliostat cache` on a real folder and a real origin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loaders.safetensors.cache_store import Store
from reconciler.cli import cache_cluster
from reconciler.cli.main import heliostat
from reconciler.errors import Retry
from reconciler.ports import Job
from specs.staging import read_output
from tests.loading.files import big, write_file, write_index
from tests.loading.servers import RangeServer


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    folder = tmp_path_factory.mktemp("origin")
    write_file(folder / "a.safetensors", big(3 << 20))
    write_index(folder / "many", [big(1 << 20), {"other": big(1 << 20)["block.0"]}])
    with RangeServer(folder) as running:
        yield running


def run(tmp_path: Path, *arguments: str, cap: str = "1G") -> Result:
    environment = {"HELIOSTAT_CACHE_DIR": str(tmp_path / "cache"), "HELIOSTAT_CACHE_BYTES": cap}
    return CliRunner().invoke(heliostat, ["cache", *arguments], env=environment)


def test_stage_list_and_remove(tmp_path: Path, origin: RangeServer) -> None:
    uri = origin.url("a.safetensors")
    assert "3.0 MiB fetched" in run(tmp_path, "stage", uri).stderr
    assert "all of it was here" in run(tmp_path, "stage", uri).stderr
    shown = run(tmp_path, "ls").stdout
    assert uri in shown
    assert "100%" in shown
    [content] = json.loads(run(tmp_path, "ls", "-o", "json").stdout)["contents"]
    assert content["present"] == content["size"] > 3 << 20
    assert not content["inUse"]
    assert run(tmp_path, "rm", content["key"][:8]).exit_code == 0
    assert json.loads(run(tmp_path, "ls", "-o", "json").stdout)["contents"] == []


def test_what_is_removed_is_named_by_its_uri_as_well_and_the_rest_stays(tmp_path: Path, origin: RangeServer) -> None:
    first, second = origin.url("a.safetensors"), origin.url("many/model-00001-of-00002.safetensors")
    for uri in (first, second):
        assert run(tmp_path, "stage", uri).exit_code == 0
    assert run(tmp_path, "rm", first).exit_code == 0
    left = json.loads(run(tmp_path, "ls", "-o", "json").stdout)["contents"]
    assert [content["uri"] for content in left] == [second]


def test_what_signs_a_uri_is_not_shown(tmp_path: Path, origin: RangeServer) -> None:
    done = run(tmp_path, "stage", origin.url("a.safetensors?X-Amz-Signature=hunter2"))
    assert "MiB fetched" in done.stderr
    assert "hunter2" not in done.output + run(tmp_path, "ls").output


def test_an_index_is_staged_with_all_its_files(tmp_path: Path, origin: RangeServer) -> None:
    assert run(tmp_path, "stage", origin.url("many/model.safetensors.index.json")).exit_code == 0
    kept = Store(tmp_path / "cache", 1 << 30).kept()
    assert len([each for each in kept if each.content.uri.endswith(".safetensors")]) == 2
    assert all(each.present == each.content.size for each in kept)
    assert run(tmp_path, "rm", "--all").exit_code == 0


def test_what_is_in_use_stays(tmp_path: Path, origin: RangeServer) -> None:
    run(tmp_path, "stage", origin.url("a.safetensors"))
    store = Store(tmp_path / "cache", 1 << 30)
    entry = store.peek(store.kept()[0].content.key)
    assert entry is not None
    with entry:
        refused = run(tmp_path, "rm", "--all")
    assert refused.exit_code == 1
    assert "in use, and kept" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("rm",), 2, "name what to remove, or say --all"),
        (("stage", "s3://a/b", "--node", "x"), 2, "go with --ray"),
        (("stage", "s3://a/b", "--ray", "http://127.0.0.1:9"), 1, "cannot be reached"),
        (("rm", "abc"), 1, "nothing is kept under abc"),
        (("stage", "ftp://there/a.safetensors"), 1, "nothing here reads ftp://"),
        (("stage", "/dev/null"), 1, "is no regular file"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    found = run(tmp_path, *arguments)
    assert found.exit_code == code
    assert said in found.stderr


def test_no_room_and_bad_settings_are_explained(tmp_path: Path, origin: RangeServer) -> None:
    assert "no room for it" in run(tmp_path, "stage", origin.url("a.safetensors"), cap="1M").stderr
    assert "HELIOSTAT_CACHE_BYTES: 'much'" in run(tmp_path, "ls", cap="much").stderr


class Answering:
    """Jobs of a cluster whose head answers some looks only."""

    def __init__(self, *answers: Job | Exception | None) -> None:
        self.answers = list(answers)

    async def look(self, job: str) -> Job | None:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def output(self, job: str) -> str:
        return "printed"


async def test_a_look_that_fails_is_tried_again_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, ended = Retry("the head is busy", timedelta(0)), Job(id="job", ended=True, succeeded=True)
    monkeypatch.setattr(cache_cluster, "LOOK_EVERY", 0.0)
    assert await cache_cluster.look(Answering(busy, busy, ended), "job") == (ended, "printed")  # type: ignore[arg-type]
    lost, _ = await cache_cluster.look(Answering(None), "job")  # type: ignore[arg-type]
    assert lost.ended
    assert not lost.succeeded
    monkeypatch.setattr(cache_cluster, "LOST_AFTER", -1.0)
    with pytest.raises(Retry):
        await cache_cluster.look(Answering(busy, ended), "job")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("logs", "message", "reason"),
    [
        ('{"node": "n2", "staged": null, "error": "forbids it (403)"}', "exit code 1", "n2: forbids it (403)"),
        ("a\nModuleNotFoundError: x", "exit code 1", "ModuleNotFoundError: x"),
        ("", "exit code 1", "exit code 1"),
        ("", "", "the job was stopped"),
    ],
)
def test_why_a_job_failed_is_said_in_a_sentence(logs: str, message: str, reason: str) -> None:
    job = Job(id="job", ended=True, message=message)
    assert cache_cluster.why(job, read_output(logs), logs) == reason
