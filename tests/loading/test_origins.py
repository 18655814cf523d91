"""The origins that loader tests trust must themselves behave as they say."""

from __future__ import annotations

import json
import time
from pathlib import Path

import boto3
import httpx
import pytest

from tests.loading.files import big, many_dtypes, write_file, write_index
from tests.loading.servers import RangeServer, s3_server
from tests.loading.shape import Shape

CONTENT = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origin")
    (folder / "weights").write_bytes(CONTENT)
    return folder


def get(server: RangeServer, **headers: str) -> httpx.Response:
    return httpx.get(server.url("weights"), headers=headers, trust_env=False)


def test_ranges_are_answered_and_counted(server: RangeServer) -> None:
    whole, middle, end = get(server), get(server, Range="bytes=256-511"), get(server, Range="bytes=-3")
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert (middle.status_code, middle.content) == (206, CONTENT[256:512])
    assert middle.headers["content-range"] == f"bytes 256-511/{len(CONTENT)}"
    assert end.content == CONTENT[-3:]
    assert get(server, Range=f"bytes={len(CONTENT)}-").status_code == 416
    counted = server.counters()
    assert counted.body == len(CONTENT) + 256 + 3
    assert counted.statuses == {"200": 1, "206": 2, "416": 1}
    assert ("/weights", 256, 256) in counted.ranges


def test_a_changed_etag_fails_if_match(server: RangeServer) -> None:
    etag = get(server).headers["etag"]
    assert get(server, **{"If-Match": etag}).status_code == 200
    server.shape(Shape(change_etag_after=1))
    assert get(server, **{"If-Match": etag}).status_code == 200
    assert get(server, **{"If-Match": etag}).status_code == 412


def test_speed_is_what_the_shape_says(server: RangeServer) -> None:
    server.shape(Shape(first_byte=0.1, bandwidth=len(CONTENT) / 0.4))
    begun = time.monotonic()
    assert get(server).content == CONTENT
    assert 0.45 < time.monotonic() - begun < 1.5


@pytest.mark.parametrize("shape", [Shape(reset_every=2), Shape(truncate_every=2)])
def test_a_cut_answer_is_seen_as_one(server: RangeServer, shape: Shape) -> None:
    server.shape(shape)
    assert get(server).content == CONTENT
    with pytest.raises(httpx.TransportError):
        get(server)


def test_refusals_wrong_bytes_and_tokens(server: RangeServer) -> None:
    server.shape(Shape(refuse_first=1, retry_after="1"))
    refused = get(server)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert get(server).status_code == 200
    server.shape(Shape(flip_every=1))
    assert sum(a != b for a, b in zip(get(server).content, CONTENT, strict=True)) == 1
    server.shape(Shape(token="secret"))
    assert get(server).status_code == 401
    assert get(server, Authorization="Bearer secret").status_code == 200


def test_nothing_outside_the_folder_is_served(server: RangeServer) -> None:
    assert httpx.get(server.url("%2e%2e/%2e%2e/etc/passwd"), trust_env=False).status_code == 404


def test_files_are_what_the_format_says(tmp_path: Path) -> None:
    contents = write_file(tmp_path / "a.safetensors", many_dtypes(), metadata={"format": "pt"})
    raw = (tmp_path / "a.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    for name, content in contents.items():
        first, last = header[name]["data_offsets"]
        assert raw[8 + length + first : 8 + length + last] == content
    index, spread = write_index(tmp_path / "sharded", [big(1000), {"other": many_dtypes()["of.f32"]}])
    assert set(json.loads(index.read_text())["weight_map"]) == set(spread)


def test_s3_answers_ranges_to_whoever_has_the_keys() -> None:
    with s3_server() as s3:
        assert s3.upload("models", "deep/weights", CONTENT) == "s3://models/deep/weights"
        assert httpx.get(f"{s3.endpoint}/models/deep/weights", trust_env=False).status_code == 403
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=s3.endpoint, **keys)
        answer = client.get_object(Bucket="models", Key="deep/weights", Range="bytes=5-9")
        assert answer["Body"].read() == CONTENT[5:10]
        client.close()
