"""Loading from files and plain HTTP: every byte as the reference reads it, and every fault survived or named."""

from __future__ import annotations

import gc
import inspect
import json
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from loaders.safetensors.errors import (
    InvalidFile,
    LoadCancelled,
    LoadError,
    LoadTimedOut,
    NotEnoughMemory,
    SourceChanged,
    SourceFailed,
    UnknownTensor,
    UnsupportedDtype,
)
from loaders.safetensors.progress import Progress, bar
from loaders.safetensors.sources.http import MOST_STREAMS, HttpFile
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.torch import load_file, stream
from tests.loading import files
from tests.loading.leaks import held, more_than
from tests.loading.needs_torch import torch
from tests.loading.reference import assert_same, bytes_of, reference
from tests.loading.servers import ROOT, RangeServer
from tests.loading.shape import Shape

MiB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    files.write_file(folder / "dtypes.safetensors", files.many_dtypes(), metadata={"format": "pt"})
    files.write_file(folder / "small.safetensors", files.many_small(2000))
    files.write_file(folder / "model.safetensors", files.transformer(layers=2, width=256))
    files.write_file(folder / "big.safetensors", files.big(40 * MiB + 12345))
    files.write_file(folder / "empty.safetensors", {})
    even = {f"t{number:02}": files.Kind(dtype="U8", shape=(2 * MiB,)) for number in range(24)}
    files.write_file(folder / "even.safetensors", even)
    files.write_file(folder / "rows.safetensors", files.transformer(layers=1, width=64, vocabulary=100))
    shards = [files.transformer(layers=1, width=128), {"head": files.Kind(dtype="F16", shape=(77, 128))}]
    files.write_index(folder / "sharded", shards)
    return folder


def asked_of(server: RangeServer) -> int:
    """Bytes asked for. (Bytes sent may still be those of a load that was broken off in the test before.)"""
    return sum(count for _, _, count in server.counters().ranges)


NAMES = ["dtypes", "small", "model", "big", "empty"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_loaded_byte_by_byte_as_the_reference_reads_it(folder: Path, name: str) -> None:
    path = folder / f"{name}.safetensors"
    assert_same(load_file(str(path)), reference(path))


@pytest.mark.parametrize("name", NAMES)
def test_http_gives_the_same_bytes_and_reads_each_once(folder: Path, server: RangeServer, name: str) -> None:
    path = folder / f"{name}.safetensors"
    assert_same(load_file(server.url(path.name), cache=None), reference(path))
    assert asked_of(server) <= path.stat().st_size + 128 * 1024


def test_an_index_and_a_folder_are_loaded_from_disk_and_over_http(folder: Path, server: RangeServer) -> None:
    expected = reference(*sorted((folder / "sharded").glob("*.safetensors")))
    index = "sharded/model.safetensors.index.json"
    for uri in (
        str(folder / index),
        str(folder / "sharded"),
        (folder / index).as_uri(),
        server.url(index),
        server.url("sharded/"),
    ):
        assert_same(load_file(uri, cache=None), expected)


def test_the_headers_of_an_index_are_read_at_the_same_time(tmp_path: Path) -> None:
    index, contents = files.write_index(tmp_path, [{f"t{n}": files.Kind(dtype="U8", shape=(999,))} for n in range(12)])
    with RangeServer(tmp_path, Shape(first_byte=0.5)) as late:
        began = time.monotonic()
        found = load_file(late.url(index.name), cache=None)
        assert time.monotonic() - began < 4, "one after the other they take six seconds and the index's half"
    assert {name: bytes_of(tensor) for name, tensor in found.items()} == contents


def test_a_stream_gives_every_tensor_once(folder: Path, server: RangeServer) -> None:
    path = folder / "model.safetensors"
    pairs = list(stream(server.url(path.name), cache=None))
    assert len(pairs) == len(dict(pairs))
    assert_same(dict(pairs), reference(path))


def test_a_stream_left_early_stops_reading(folder: Path, server: RangeServer) -> None:
    server.shape(Shape(bandwidth=4e6))
    before = held()
    for _ in stream(server.url("even.safetensors"), cache=None, memory_limit=12 * MiB):
        break
    assert not more_than(before)
    assert asked_of(server) < (folder / "even.safetensors").stat().st_size


def test_a_stream_reads_no_further_ahead_than_its_memory_limit(folder: Path, server: RangeServer) -> None:
    limit = 12 * MiB
    for taken, _ in enumerate(stream(server.url("even.safetensors"), cache=None, memory_limit=limit), start=1):
        assert asked_of(server) <= taken * 2 * MiB + limit + MiB
    assert taken == 24


def test_only_chosen_tensors_are_read(folder: Path, server: RangeServer) -> None:
    path = folder / "model.safetensors"
    found = load_file(server.url(path.name), cache=None, tensors="layers.1.*")
    expected = {name: value for name, value in reference(path).items() if name.startswith("layers.1.")}
    assert_same(found, expected)
    needed = sum(len(content) for _, content in expected.values())
    assert asked_of(server) - 128 * 1024 <= 1.05 * needed
    with pytest.raises(UnknownTensor):
        load_file(str(path), tensors="layers.7.*")


@pytest.mark.parametrize("dimension", [0, 1])
def test_the_ranks_parts_put_together_are_the_tensor(folder: Path, server: RangeServer, dimension: int) -> None:
    path = folder / "rows.safetensors"
    rules = {"*norm.weight": None, "*": dimension}
    wholes = load_file(str(path))
    parts = [load_file(server.url(path.name), cache=None, shard=(rank, 4, rules)) for rank in range(4)]
    for name, tensor in wholes.items():
        together = parts[0][name] if "norm" in name else torch.cat([part[name] for part in parts], dimension)
        assert bytes_of(together) == bytes_of(tensor), name
    read = asked_of(server)
    assert read <= 1.05 * path.stat().st_size + 4 * 128 * 1024 + 4 * sum(
        t.nbytes for n, t in wholes.items() if "norm" in n
    )


def test_slices_are_those_of_the_tensor(folder: Path) -> None:
    path = str(folder / "model.safetensors")
    part = (slice(10, 200, 1), slice(-33, None))
    found = load_file(path, tensors="layers.0.up.weight", shard={"layers.0.up.weight": part})["layers.0.up.weight"]
    assert bytes_of(found) == bytes_of(load_file(path)["layers.0.up.weight"][part])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_floating_tensors_are_cast_on_the_way_and_others_kept(
    folder: Path, server: RangeServer, dtype: torch.dtype
) -> None:
    for name in ("dtypes", "model"):
        whole = load_file(str(folder / f"{name}.safetensors"))
        cast = load_file(server.url(f"{name}.safetensors"), dtype=dtype, cache=None)
        for key, tensor in whole.items():
            expected = tensor.to(dtype) if tensor.is_floating_point() else tensor
            assert cast[key].dtype == expected.dtype
            assert bytes_of(cast[key]) == bytes_of(expected), key


def test_every_tensor_owns_its_memory(folder: Path) -> None:
    path = folder / "dtypes.safetensors"
    first, second = load_file(str(path)), load_file(str(path))
    for tensor in first.values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        tensor.zero_()
    del first
    gc.collect()
    assert_same(second, reference(path))


FAULTS = {
    "resets": Shape(reset_every=3),
    "truncation": Shape(truncate_every=3),
    "refusals": Shape(refuse_every=3, refuse_status=503),
    "too many requests": Shape(refuse_every=2, refuse_status=429, retry_after="0"),
    "refused at first": Shape(refuse_first=3),
    "no keep-alive": Shape(close_each=True),
    "slow peers": Shape(slow_every=5, slow_bandwidth=2e5),
    "silent peers": Shape(stall_every=9),
    "no etag": Shape(etag="-"),
    "weak etag": Shape(etag='W/"1"', ignore_if_match=True),
    "everything": Shape(reset_every=5, truncate_every=7, refuse_every=11, slow_every=13, slow_bandwidth=2e6),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faults_neither_corrupt_nor_hang_nor_leak(folder: Path, server: RangeServer, fault: str) -> None:
    server.shape(FAULTS[fault])
    path, before = folder / "big.safetensors", held()
    assert_same(load_file(server.url(path.name), cache=None, timeout=60), reference(path))
    assert not more_than(before)


def test_what_broke_is_resumed_where_it_broke(folder: Path, server: RangeServer) -> None:
    """Of what arrived nothing is sent again, though every third answer ends after half of its bytes."""
    server.shape(Shape(truncate_every=3))
    path = folder / "big.safetensors"
    assert_same(load_file(server.url(path.name), cache=None), reference(path))
    assert server.counters().body <= 1.05 * path.stat().st_size


def test_an_origin_that_answers_late_gets_all_connections_at_once(server: RangeServer) -> None:
    server.shape(Shape(first_byte=0.03))
    source = HttpFile(server.url("big.safetensors"), Interrupt())
    source.close()
    assert source.streams.wanted == MOST_STREAMS


FATAL: dict[str, tuple[Shape, type[LoadError], str]] = {
    "replaced meanwhile": (Shape(change_etag_after=3), SourceChanged, "replaced"),
    "replaced, origin ignores If-Match": (Shape(change_etag_after=3, ignore_if_match=True), SourceChanged, "replaced"),
    "knows no ranges": (Shape(ignore_range=True), SourceFailed, "no range requests"),
    "gone": (Shape(refuse_every=1, refuse_status=404), SourceFailed, "404"),
    "forbidden": (Shape(refuse_every=1, refuse_status=403), SourceFailed, "403"),
    "asks for a token": (Shape(token="secret"), SourceFailed, "401"),
}


@pytest.mark.parametrize("name", sorted(FATAL))
def test_what_cannot_be_mended_is_said_at_once(server: RangeServer, name: str) -> None:
    shape, error, text = FATAL[name]
    server.shape(shape)
    began, before = time.monotonic(), held()
    with pytest.raises(error, match=text) as caught:
        load_file(server.url("big.safetensors"), cache=None)
    assert time.monotonic() - began < 10
    assert not more_than(before)
    assert server.url("big.safetensors") in str(caught.value)


def test_an_origin_that_names_a_pause_gets_it_up_to_a_limit(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.shape(Shape(refuse_first=1, retry_after="1"))
    began = time.monotonic()
    load_file(server.url("small.safetensors"), cache=None)
    assert time.monotonic() - began >= 1
    monkeypatch.setattr("loaders.safetensors.sources.http.LONGEST_RETRY_AFTER", 0.1)
    server.shape(Shape(refuse_first=1, retry_after="3600"))
    load_file(server.url("small.safetensors"), cache=None, timeout=20)


def test_the_origin_is_told_which_version_is_meant(server: RangeServer) -> None:
    """One that knows the version sends nothing of another one."""
    server.shape(Shape(change_etag_after=3))
    with pytest.raises(SourceChanged):
        load_file(server.url("big.safetensors"), cache=None)
    assert server.counters().statuses.get("412", 0) >= 1
    assert len(server.counters().ranges) == 3


def test_an_error_on_the_way_names_tensor_and_bytes(server: RangeServer) -> None:
    server.shape(Shape(change_etag_after=3))
    with pytest.raises(SourceChanged, match=r"tensor 'block\.0', bytes \d+-\d+"):
        load_file(server.url("big.safetensors"), cache=None)


def test_an_origin_that_is_not_there_is_given_up_on(folder: Path) -> None:
    with RangeServer(folder) as server:
        url = server.url("big.safetensors")
    with pytest.raises(SourceFailed, match=r"gave up after 8 tries: no connection"):
        load_file(url, cache=None)


def test_a_secret_in_a_url_is_in_no_message() -> None:
    with pytest.raises(LoadError) as caught:
        load_file("http://user:hunter2@127.0.0.1:1/w.safetensors?sig=hunter3", cache=None, timeout=0.2)
    assert "hunter" not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"


@pytest.mark.parametrize("timeout", [0.5, timedelta(seconds=0.5)])
def test_a_time_out_ends_a_load_that_hangs(server: RangeServer, timeout: float | timedelta) -> None:
    server.shape(Shape(stall_every=1))
    began = time.monotonic()
    with pytest.raises(LoadTimedOut):
        load_file(server.url("big.safetensors"), cache=None, timeout=timeout)
    assert time.monotonic() - began < 3


def test_a_cancelled_load_ends_soon_and_leaves_no_thread(server: RangeServer) -> None:
    server.shape(Shape(bandwidth=1e6))
    cancel, before = threading.Event(), held()
    threading.Timer(0.4, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(LoadCancelled):
        load_file(server.url("big.safetensors"), cache=None, cancel=cancel)
    assert time.monotonic() - began < 3
    assert not more_than(before)


def test_a_load_that_was_cancelled_before_reads_nothing(folder: Path, server: RangeServer) -> None:
    cancel = threading.Event()
    cancel.set()
    for uri in (str(folder / "small.safetensors"), server.url("small.safetensors")):
        with pytest.raises(LoadCancelled):
            load_file(uri, cache=None, cancel=cancel)
        with pytest.raises(LoadCancelled):
            next(stream(uri, cache=None, cancel=cancel))
    assert asked_of(server) == 0


def test_a_load_that_cannot_fit_reads_nothing(folder: Path, server: RangeServer) -> None:
    with pytest.raises(NotEnoughMemory, match="memory_limit"):
        load_file(server.url("big.safetensors"), cache=None, memory_limit=30 * MiB)
    assert asked_of(server) <= 128 * 1024 + 1, "and a byte that tells how far the origin is"
    with pytest.raises(NotEnoughMemory, match="memory_limit"):
        next(stream(str(folder / "big.safetensors"), memory_limit=16 * MiB))


def test_a_file_cut_short_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    files.write_file(path, files.big(4 * MiB))
    loading = stream(str(path), memory_limit=100 * MiB, tensors=lambda _: not os.truncate(path, 1000))
    with pytest.raises(SourceChanged, match="cut short"):
        list(loading)


def test_a_file_written_to_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    files.write_file(path, files.big(4 * MiB))

    def touch(_: str) -> bool:
        os.utime(path, (1, 1))
        return True

    with pytest.raises(SourceChanged, match="written to"):
        load_file(str(path), tensors=touch)


def test_what_is_no_file_of_weights_is_said_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, text in (
        (tmp_path / "none", "cannot be opened"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path, "no \\*"),
    ):
        with pytest.raises(SourceFailed, match=text):
            load_file(str(path))
    for uri in ("ftp://host/w.safetensors", "http://", "http://host\r\n/w"):
        with pytest.raises(SourceFailed):
            load_file(uri, cache=None)


def test_a_dtype_without_a_torch_dtype_is_said_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    packed = b'"packed":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}'
    header = b"{" + packed + b',"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"xy")
    with pytest.raises(UnsupportedDtype, match="F4"):
        load_file(str(path))
    assert load_file(str(path), tensors="b")["b"].tolist() == [ord("y")]


def test_an_index_that_lies_is_refused(folder: Path, tmp_path: Path) -> None:
    files.write_file(tmp_path / "a.safetensors", {"x": files.Kind(dtype="U8", shape=(3,))})
    files.write_file(tmp_path / "b.safetensors", {"y": files.Kind(dtype="U8", shape=(3,))})
    for file, names in (("c", "xz"), ("d", "xy")):
        kinds = {name: files.Kind(dtype="U8", shape=(3,)) for name in names}
        files.write_file(tmp_path / f"{file}.safetensors", kinds)
    cases = {
        '{"weight_map": {"z": "c.safetensors"}}': "c.safetensors has it, but the index does not name it",
        '{"weight_map": {"z": "c.safetensors", "x": "d.safetensors", "y": "d.safetensors"}}': "two files have it",
        '{"weight_map": {"x": "b.safetensors", "y": "b.safetensors"}}': "a.safetensors has it|no file has it",
        '{"weight_map": {"x": "a.safetensors", "z": "a.safetensors"}}': "no file has it",
        '{"weight_map": {"x": "../a.safetensors"}}': "no name below",
        '{"weight_map": {"x": "/etc/passwd"}}': "no name below",
        '{"weight_map": {"x": "a%2f..%2fb"}}': "no name below",
        '{"weight_map": {"x": "a.safetensors", "x": "a.safetensors"}}': "twice",
        '{"weight_map": {}}': "no weight_map",
        "[]": "no weight_map",
    }
    for number, (text, problem) in enumerate(cases.items()):
        index = tmp_path / f"{number}.safetensors.index.json"
        index.write_text(text)
        with pytest.raises(InvalidFile, match=problem):
            load_file(str(index))
    (tmp_path / "fine.safetensors.index.json").write_text(
        '{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}'
    )
    assert load_file(str(tmp_path / "fine.safetensors.index.json")).keys() == {"x", "y"}


def test_progress_is_told_to_the_end(folder: Path, server: RangeServer) -> None:
    server.shape(Shape(total_bandwidth=60e6))
    seen: list[Progress] = []
    load_file(server.url("big.safetensors"), cache=None, progress=seen.append)
    assert [report.done for report in seen] == sorted(report.done for report in seen)
    assert len(seen) >= 3
    assert seen[-1].finished
    assert "100%" in bar(seen[-1])
    assert not any(report.finished for report in seen[:-1])


def test_a_callback_that_fails_ends_the_load_with_its_error(folder: Path) -> None:
    def fails(_: Progress) -> None:
        raise ZeroDivisionError

    before = held()
    with pytest.raises(ZeroDivisionError):
        load_file(str(folder / "big.safetensors"), progress=fails)
    assert not more_than(before)


MEASURE = """
import gc, json, sys
from loaders.safetensors.torch import load_file, stream
def peak():
    # Not ru_maxrss: that also counts the process which started this one.
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
for uri, cache, limit in json.loads(sys.argv[1]):
    load_file(uri, cache=None, tensors=lambda name: False)
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    before, kept = peak(), {}
    if limit is not None:
        size = sum(t.nbytes for _, t in stream(uri, cache=cache, memory_limit=limit))
    else:
        kept = load_file(uri, cache=cache)
        size = sum(t.nbytes for t in kept.values())
    print(peak() - before, size)
    del kept
"""


def measured(*cases: tuple[str, str | None, int | None]) -> list[tuple[int, int]]:
    """Load in a process of its own, each URI with this cache, by `stream` if there is a limit.

    Return, for each, the bytes that its memory grew by at most, and the tensors' bytes.
    """
    command = [sys.executable, "-c", MEASURE, json.dumps(cases)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [(int(taken), int(size)) for taken, size in map(str.split, printed.splitlines())]


def test_the_peak_of_memory_is_the_result_and_little_more(folder: Path, server: RangeServer) -> None:
    path = folder / "peak.safetensors"
    files.write_file(path, files.big(120 * MiB))
    url = server.url(path.name)
    found = measured((str(path), None, None), (url, None, None), (url, "node", None), (url, "node", None))
    assert len(found) == 4
    for taken, size in found:
        assert 0.9 * size < taken < size + 150 * MiB


def test_the_peak_of_a_stream_is_its_limit_and_a_block(folder: Path, server: RangeServer) -> None:
    path = folder / "long.safetensors"
    files.write_file(path, {f"t{number:02}": files.Kind(dtype="U8", shape=(2 * MiB,)) for number in range(60)})
    for taken, size in measured((str(path), None, 16 * MiB), (server.url(path.name), None, 16 * MiB)):
        assert 8 * MiB < taken < (16 + 16 + 24) * MiB
        assert size == 120 * MiB


def test_a_cast_stream_that_cannot_go_on_within_its_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    files.write_file(path, {"a": files.Kind(dtype="BF16", shape=(65 * MiB,))})
    with pytest.raises(NotEnoughMemory, match="memory_limit"):
        next(stream(str(path), dtype=torch.float32, memory_limit=(260 + 8) * MiB))
    [(name, tensor)] = stream(str(path), dtype=torch.float32, memory_limit=(260 + 16) * MiB)
    assert (name, tensor.shape) == ("a", (65 * MiB,))


def test_only_a_missing_index_makes_a_folder_its_usual_file(tmp_path: Path, server: RangeServer, folder: Path) -> None:
    files.write_file(folder / "one" / "model.safetensors", files.big(MiB))
    assert_same(load_file(server.url("one/"), cache=None), reference(folder / "one" / "model.safetensors"))
    server.shape(Shape(refuse_first=1, refuse_status=400))
    with pytest.raises(SourceFailed, match="400"):
        load_file(server.url("one/"), cache=None)


def test_a_path_may_have_what_ends_a_uri(tmp_path: Path) -> None:
    index, _ = files.write_index(tmp_path / "a#b?c", [files.big(MiB), {"other": files.big(MiB)["block.0"]}])
    assert_same(load_file(str(index)), reference(*sorted((tmp_path / "a#b?c").glob("*.safetensors"))))


def test_the_first_arguments_are_those_that_scripts_for_other_loaders_give() -> None:
    first = list(inspect.signature(load_file).parameters.values())[:3]
    assert [(each.name, each.default) for each in first] == [
        ("file_uri", inspect.Parameter.empty),
        ("device", "cpu"),
        ("region", None),
    ]
