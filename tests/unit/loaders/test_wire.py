"""Answers that a file server should not give, and addresses that carry secrets."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from loaders.safetensors.errors import SourceFailed, shown
from loaders.safetensors.sources.http import HttpFile
from loaders.safetensors.sources.interrupt import Interrupt
from loaders.safetensors.sources.wire import Answer, is_number
from tests.local_http import Answering, listening

Replying = Callable[[str, str], tuple[int, dict[str, str]]]
WHOLE = {"Content-Range": "bytes 0-3/4", "ETag": '"a"'}


@contextmanager
def origin(replying: Replying) -> Iterator[int]:
    """A server whose answers to (path, authorization) are status and headers; bodies are four bytes."""

    class Handler(Answering):
        def answer(self) -> None:
            status, headers = replying(self.path, self.headers.get("Authorization", ""))
            self.say(status, b"1234", headers)

    with listening(Handler) as port:
        yield port


def test_relative_redirects_go_on_from_the_last_one_and_keep_the_credentials() -> None:
    expected = "Basic " + base64.b64encode(b"me:hunter2").decode()
    seen = []

    def answer(path: str, authorization: str) -> tuple[int, dict[str, str]]:
        seen.append((path, authorization))
        leads = {"/w": "/deep/one", "/deep/one": "two"}
        return (302, {"Location": leads[path]}) if path in leads else (206, WHOLE)

    with origin(answer) as port:
        file = HttpFile(f"http://me:hunter2@127.0.0.1:{port}/w", Interrupt())
        file.close()
    assert seen == [("/w", expected), ("/deep/one", expected), ("/deep/two", expected)]


def test_credentials_do_not_go_to_another_host() -> None:
    seen = []

    def other(path: str, authorization: str) -> tuple[int, dict[str, str]]:
        seen.append(authorization)
        return 206, WHOLE

    with origin(other) as there:
        target = f"http://127.0.0.1:{there}/w"
        with origin(lambda path, authorization: (302, {"Location": target})) as here:
            HttpFile(f"http://me:hunter2@127.0.0.1:{here}/w", Interrupt()).close()
    assert seen == [""]


@pytest.mark.parametrize("target", ["https://me:hunter2@weights.example/w?sig=hunter2", "http://[hunter2"])
def test_a_redirect_that_is_not_followed_shows_no_secret(target: str) -> None:
    with (
        origin(lambda path, authorization: (302, {"Location": target})) as port,
        pytest.raises(SourceFailed, match="redirects") as raised,
    ):
        HttpFile(f"http://127.0.0.1:{port}/w", Interrupt())
    assert "hunter2" not in str(raised.value)


def test_a_number_of_thousands_of_digits_is_none() -> None:
    digits = "9" * 5000
    assert not is_number(digits)
    assert Answer(status=200, headers={"content-length": digits}).length == -1
    headers = {"Content-Range": f"bytes 0-3/{digits}", "ETag": '"a"'}
    with (
        origin(lambda path, authorization: (206, headers)) as port,
        pytest.raises(SourceFailed, match="Content-Range"),
    ):
        HttpFile(f"http://127.0.0.1:{port}/w", Interrupt())


def test_what_is_no_url_is_shown_without_what_it_may_hide() -> None:
    assert shown("http://me:hunter2@[bad/w") == "http://..."
    assert shown("s3://bucket/key?sig=hunter2") == "s3://bucket/key"
