"""Answers that a file server should not give, and addresses that carry secrets."""

from __future__ import annotations

import base64
import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest

from loaders.safetensors.errors import LoadError, SourceFailed, shown
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


WEIGHTS = random.Random(3).randbytes(700_001)


@contextmanager
def framing(step: int, *, cut_every: int = 0, extra: str = "") -> Iterator[str]:
    """A server that sends bodies in frames of `step` bytes, and breaks off each so manieth of them in a frame."""
    answers = itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            first, last = (int(text) for text in self.headers["Range"].removeprefix("bytes=").split("-"))
            body = WEIGHTS[first : last + 1]
            self.send_response_only(206)
            self.send_header("ETag", '"a"')
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(WEIGHTS)}")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if cut_every and next(answers) % cut_every == 0:
                self.wfile.write(f"{step:x}\r\n".encode() + body[: step // 2])
                self.close_connection = True
                return
            for at in range(0, len(body), step):
                part = body[at : at + step]
                self.wfile.write(f"{len(part):X}{extra}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\nTrailer: x\r\n\r\n")

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}/w"


@pytest.mark.parametrize("step", [211, 4096, 100_000, 10_000_000])
@pytest.mark.parametrize("cut_every", [0, 3])
def test_a_body_in_frames_is_put_together_again(step: int, cut_every: int) -> None:
    with framing(step, cut_every=cut_every, extra=";name=value") as url:
        source = HttpFile(url, Interrupt())
        found = bytearray(len(WEIGHTS))
        for at in range(0, len(found), 200_000):
            source.read_into(at, memoryview(found)[at : at + 200_000], Interrupt())
        source.close()
    assert found == WEIGHTS


@pytest.mark.parametrize("line", ["xyz", "", "-5", "1 0", "f" * 500, "0"])
def test_what_is_no_frame_ends_the_read_and_puts_nothing_in_its_place(line: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self.wfile.write(b'HTTP/1.1 206 Partial Content\r\nETag: "a"\r\nTransfer-Encoding: chunked\r\n')
            self.wfile.write(f"Content-Range: bytes 0-3/4\r\n\r\n{line}\r\n1234\r\n0\r\n\r\n".encode())
            self.close_connection = True

    interrupt = Interrupt()
    threading.Timer(1.0, interrupt.fire, [LoadError("enough")]).start()
    with listening(Handler) as port, pytest.raises(LoadError, match=r"gave up|enough"):
        HttpFile(f"http://127.0.0.1:{port}/w", interrupt)


@pytest.mark.parametrize("name", ["Content-Encoding", "Transfer-Encoding"])
def test_a_compressed_body_is_refused(name: str) -> None:
    with origin(lambda *_: (206, {**WHOLE, name: "gzip"})) as port, pytest.raises(SourceFailed, match="compressed"):
        HttpFile(f"http://127.0.0.1:{port}/w", Interrupt())


HEADS = ["HTTP/1.1 206 Partial Content", "HTTP/1.0 206 x", "HTTP/1.1 206", "HTTP/1.1 200 OK", "HTTP/1.1 416 x"]
HEADS += ["HTTP/1.1 301 x", "HTTP/1.1 503 x", "HTTP/1.1 99999999999 x", "HTTP/1.1 100 Continue", "SSH-2.0", ""]
LINES = ["Content-Range: bytes 0-3/4", "Content-Range: bytes 0-3/0", "Content-Range: bytes 3-0/4"]
LINES += ["Content-Range: bytes 0-3/9999999999999999999", "Content-Range: bytes */0", "Content-Range: bytes 9-1/2"]
LINES += ["Content-Range: bytes 0-9999999999999999998/9999999999999999999", "Content-Length: 4", "Content-Length: -4"]
LINES += ["Content-Length: " + "9" * 30, "Transfer-Encoding: chunked", 'ETag: "a"', 'ETag: W/"b"', "Last-Modified: x"]
LINES += ["Location: http://[::1", "Location: http://x:99999/", "Location: \xff\xfe", "Location: /w", "Retry-After: 0"]
LINES += ["Retry-After: \xb2", ": x", "no colon", "Connection: close", "\0: \0"]
BODIES = ["1234", "", "4\r\n1234\r\n0\r\n\r\n", "12", "x" * 5000, "\x08" + 7 * "\0"]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_server_says_a_load_ends_with_an_error_of_its_own(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.safetensors.sources.http.MOST_TRIES", 2)
    source = random.Random(seed)
    ends = ["\r\n\r\n"] * 3 + ["\r\n", ""]

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            lines = source.sample(LINES, source.randint(0, 6))
            said = "\r\n".join([source.choice(HEADS), *lines]) + source.choice(ends) + source.choice(BODIES)
            self.request.sendall(said.encode("latin-1"))

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that go away in the middle
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        for _ in range(40):
            with contextlib.suppress(LoadError):
                found = HttpFile(f"http://127.0.0.1:{server.server_address[1]}/w", Interrupt())
                found.read_into(0, memoryview(bytearray(min(found.size, 100))), Interrupt())
        server.shutdown()
