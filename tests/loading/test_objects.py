"""Object stores, on an S3 server of this machine."""

from __future__ import annotations

import base64
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import obstore
import pytest
from obstore.store import from_url

from loaders.safetensors.errors import LoadTimedOut, SourceChanged, SourceFailed, SourceMissing, SourceUnreachable
from loaders.safetensors.sources import objects
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.torch import load_file, stream
from tests.loading import files
from tests.loading.leaks import held, more_than
from tests.loading.needs_torch import torch
from tests.loading.reference import assert_same, reference
from tests.loading.servers import S3_KEYS, RangeServer, S3Server, s3_server
from tests.loading.shape import Shape
from tests.loading.tls import issue, tls_before
from tests.local_http import Answering, listening


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def store(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running


def test_an_object_is_loaded_byte_by_byte_as_the_reference_reads_it(store: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    files.write_file(path, {**files.many_dtypes(), **files.big(20 << 20)})
    uri = store.upload("weights", "models/a b/w.safetensors", path)
    assert uri.startswith("s3://")
    assert_same(load_file(uri, cache=None), reference(path))
    assert_same(load_file(uri, region="us-east-1", cache=None), reference(path))
    assert_same(dict(stream(uri, cache=None)), reference(path))


def test_an_index_in_a_bucket_is_followed(store: S3Server, tmp_path: Path) -> None:
    index, _ = files.write_index(tmp_path, [files.transformer(layers=1, width=64), files.many_dtypes()])
    for path in tmp_path.iterdir():
        uri = store.upload("weights", f"sharded/{path.name}", path)
    expected = reference(*sorted(tmp_path.glob("*.safetensors")))
    folder = uri.rpartition("/")[0] + "/"
    assert_same(load_file(folder + index.name, cache=None), expected)
    assert_same(load_file(folder, cache=None, dtype=None), expected)


def test_an_object_replaced_meanwhile_is_an_error(store: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    files.write_file(path, files.big(4 << 20))
    uri = store.upload("weights", "replaced.safetensors", path)

    def replace(_: str) -> bool:
        files.write_file(path, files.big(4 << 20), seed=1)
        obstore.put(from_url("s3://weights"), "replaced.safetensors", path)
        return True

    with pytest.raises(SourceChanged, match="replaced"):
        load_file(uri, cache=None, tensors=replace)


def test_an_object_that_is_not_there_is_said_so(store: S3Server) -> None:
    store.upload("weights", "other", b"x")
    with pytest.raises(SourceMissing, match=r"s3://weights/none\.safetensors.*no such object"):
        load_file("s3://weights/none.safetensors", cache=None)


def test_a_part_of_an_object_is_cast_on_the_way(store: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    files.write_file(path, files.transformer(layers=1, width=64))
    uri = store.upload("weights", "part.safetensors", path)
    found = load_file(uri, cache=None, tensors="*.norm.weight", dtype=torch.float32)
    assert {name: tensor.dtype for name, tensor in found.items()} == {"layers.0.norm.weight": torch.float32}


class Noting(Answering):
    """A store that has nothing, and notes what each request was signed with."""

    signed: ClassVar[list[str]] = []

    def answer(self) -> None:
        self.signed.append(self.headers["Authorization"])
        self.say(404)

    do_HEAD = answer  # noqa: N815 - the name is http.server's


@pytest.mark.parametrize("region", ["eu-north-1", None])
def test_the_region_asked_for_is_signed_for(monkeypatch: pytest.MonkeyPatch, region: str | None) -> None:
    Noting.signed.clear()
    for name, value in {**S3_KEYS, "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    with listening(Noting) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(SourceMissing):
            load_file("s3://weights/w.safetensors", region=region, cache=None)
    assert f"/{region or S3_KEYS['AWS_DEFAULT_REGION']}/s3/" in Noting.signed[0]


def test_a_store_loaded_from_again_and_again_leaks_nothing(store: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    files.write_file(path, files.transformer(layers=1, width=64))
    uri = store.upload("weights", "again.safetensors", path)
    load_file(uri, cache=None)
    before = held()
    for _ in range(20):
        load_file(uri, cache=None)
    assert not more_than(before)


def test_a_store_that_is_gone_is_unreachable_and_its_address_shown_without_secrets(
    store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MOST_TRIES", 2)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(SourceUnreachable, match=f"127.0.0.1:{port}"):
        load_file("s3://weights/w.safetensors", cache=None)
    with pytest.raises(SourceUnreachable) as raised:
        load_file(f"https://me:hunter2@127.0.0.1:{port}/w.safetensors", cache=None)
    assert "hunter2" not in str(raised.value)


def test_a_time_out_ends_an_open_that_hangs(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(LoadTimedOut):
            load_file("s3://weights/w.safetensors", cache=None, timeout=0.5)
        assert time.monotonic() - began < 5
    # The call that was left alone ends with the server, which took no connection.
    for thread in threading.enumerate():
        if thread.name == "weights-ask":
            thread.join(10)
            assert not thread.is_alive()


def google(server: RangeServer) -> dict[str, str]:
    account = {"gcs_base_url": f"http://127.0.0.1:{server.port}", "disable_oauth": True}
    key = {**account, "client_email": "", "private_key": "", "private_key_id": ""}
    return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key), "GOOGLE_ALLOW_HTTP": "true"}


def azure(server: RangeServer) -> dict[str, str]:
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": "me",
        "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"key").decode(),
        "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{server.port}",
        "AZURE_ALLOW_HTTP": "true",
    }


@pytest.mark.parametrize(("scheme", "environment"), [("gs", google), ("az", azure)])
def test_other_clouds_are_read_in_ranges_and_pinned(
    scheme: str,
    environment: Callable[[RangeServer], dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is used of their APIs is plain GETs and HEADs of paths, which the range server answers."""
    path = tmp_path / "models" / "a b" / "w.safetensors"
    files.write_file(path, {**files.many_dtypes(), **files.big(20 << 20)})
    with RangeServer(tmp_path) as server:
        for name, value in environment(server).items():
            monkeypatch.setenv(name, value)
        read_and_pinned(f"{scheme}://models/", path, server)


FAULTS = {
    "resets": Shape(reset_every=3),
    "truncation": Shape(truncate_every=3),
    "refusals": Shape(refuse_every=3, refuse_status=503),
    "too many requests": Shape(refuse_every=2, refuse_status=429),
    "refused at first": Shape(refuse_first=3),
    "everything": Shape(reset_every=5, truncate_every=7, refuse_every=11, slow_every=13, slow_bandwidth=2e6),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faults_of_a_store_neither_corrupt_nor_hang_nor_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = tmp_path / "models" / "w.safetensors"
    files.write_file(path, files.big(12 << 20))
    with RangeServer(tmp_path) as server:
        for name, value in google(server).items():
            monkeypatch.setenv(name, value)
        server.forget()  # so that the test's own connection is counted
        load_file("gs://models/w.safetensors", cache=None)
        before = held()
        server.shape(FAULTS[fault])
        assert_same(load_file("gs://models/w.safetensors", cache=None, timeout=60), reference(path))
        assert not more_than(before)


@pytest.mark.parametrize("fault", ["resets", "truncation"])
def test_a_long_answer_of_a_store_is_resumed_where_it_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """But for less than a part of a megabyte, which the store's library has not handed over yet."""
    content = random.Random(3).randbytes(12 << 20)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "w").write_bytes(content)
    with RangeServer(tmp_path) as server:
        for name, value in google(server).items():
            monkeypatch.setenv(name, value)
        source = objects.open_object("gs://models/w", None, Interrupt())
        server.shape(Shape(reset_every=1) if fault == "resets" else Shape(truncate_every=1))
        found = bytearray(10 << 20)

        def begun() -> set[int]:
            return {start for _, start, _ in server.counters().ranges}

        def heal() -> None:
            """A reset may take along all that one answer brought: how many of them it takes is not told beforehand."""
            until = time.monotonic() + 20
            while len(begun()) < 3 and time.monotonic() < until:
                time.sleep(0.01)
            server.shape(Shape())

        healer = threading.Thread(target=heal)
        healer.start()
        source.read_into(1 << 20, memoryview(found), Interrupt())
        healer.join()
        source.close()
        assert len(begun()) >= 3, "each try went on from where the last one ended"
    assert found == content[1 << 20 : 11 << 20]


def test_a_server_with_tls_is_read_in_ranges_and_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "models" / "a b" / "w.safetensors"
    files.write_file(path, {**files.many_dtypes(), **files.big(20 << 20)})
    authority = issue(tmp_path)
    with RangeServer(tmp_path) as server, tls_before(server, tmp_path / "server.pem") as port:
        monkeypatch.setattr(objects, "MOST_TRIES", 1)
        with pytest.raises(SourceUnreachable):
            load_file(f"https://127.0.0.1:{port}/models/a%20b/w.safetensors", cache=None)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        read_and_pinned(f"https://127.0.0.1:{port}/models/", path, server)
        with pytest.raises(SourceFailed, match="query"):
            load_file(f"https://127.0.0.1:{port}/models/w.safetensors?sig=x", cache=None)


def read_and_pinned(root: str, path: Path, server: RangeServer) -> None:
    """Load the file at `a b/w.safetensors` of a root; see that it is read in parts, and never as a mixture of two."""
    name = "a%20b/w.safetensors" if root.startswith("https") else "a b/w.safetensors"
    assert_same(load_file(root + name, cache=None), reference(path))
    assert len(server.counters().ranges) > 2
    with pytest.raises(SourceMissing, match="no such object"):
        load_file(f"{root}none.safetensors", cache=None)
    server.shape(Shape(change_etag_after=2))
    with pytest.raises(SourceChanged):
        load_file(root + name, cache=None)
