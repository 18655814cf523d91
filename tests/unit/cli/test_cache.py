"""`heliostat cache` on a real folder and a real origin."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loaders.safetensors.cache_store import Store
from reconciler.adapters.jobs import Job
from reconciler.cli import cache_cluster
from reconciler.cli.cache_cluster import PROGRAM, command_line, documents, why
from reconciler.cli.main import heliostat
from reconciler.errors import Retry
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


def test_the_job_of_a_cluster_is_quoted_for_the_shell() -> None:
    line = command_line("s3://a/b; rm -rf /", ["n1", "n2"], None, 90.0)
    program, words = ["python", *PROGRAM.split()], shlex.split(line)
    assert words == [*program, "--nodes=n1,n2", "--timeout=90", "--", "s3://a/b; rm -rf /"]


def test_what_a_job_says_of_its_nodes_is_told_apart_from_the_rest() -> None:
    logs = """INFO connecting
{"node": "n1", "staged": {"size": 1}, "error": null}
{"node": "n2", "staged": null, "error": "forbids it (403)"}
{"node": "n3", "sta"""
    job = Job(ended=True, succeeded=False, message="exit code 1", logs=logs)
    assert [node["node"] for node in documents(job)] == ["n1", "n2"]
    assert why(job) == "n2: forbids it (403)"
    assert (
        why(Job(ended=True, succeeded=False, message="", logs="a\nModuleNotFoundError: x")) == "ModuleNotFoundError: x"
    )


class Answering:
    """Jobs of a cluster whose head answers some looks only."""

    def __init__(self, *answers: Job | Exception) -> None:
        self.answers = list(answers)

    async def look(self, job: str) -> Job:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_look_that_fails_is_tried_again_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, ended = Retry("the head is busy", timedelta(0)), Job(ended=True, succeeded=True, message="", logs="")
    monkeypatch.setattr(cache_cluster, "LOOK_EVERY", 0.0)
    assert await cache_cluster._look(Answering(busy, busy, ended).look, "job") == ended
    monkeypatch.setattr(cache_cluster, "LOST_AFTER", -1.0)
    with pytest.raises(Retry):
        await cache_cluster._look(Answering(busy, ended).look, "job")
