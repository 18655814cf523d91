"""Coverage-guided fuzzing of one parser, in a process of its own: libFuzzer ends it, and its coverage is the process's.

python -m tests.fuzz.guided spec-files [-max_total_time=60] [libFuzzer's other options]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["specs", "reconciler.api", "reconciler.adapters", "yaml", "tests.fuzz.planted"]
):
    from tests.fuzz import planted, test_git_trees, test_spec_files, test_webhook_bodies
from reconciler.api.webhooks import Sender

Check = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is fuzzed: with which bytes it begins, and of which pieces others are made."""

    check: Check
    seeds: Iterable[bytes] = ()
    pieces: Iterable[bytes] = ()


@contextmanager
def target_called(name: str, folder: Path) -> Iterator[Target]:
    """Yield one of the targets; what it keeps on disk is in `folder`."""
    match name:
        case "spec-files":
            yield Target(
                check=lambda data: test_spec_files.check({"a.yaml": data}),
                seeds=test_spec_files.SEEDS,
                pieces=test_spec_files.TOKENS,
            )
        case "webhook-bodies":
            senders = list(Sender)
            with test_webhook_bodies.checking(set()) as check:

                def send(data: bytes) -> None:
                    sender = senders[data[0] % len(senders)] if data else senders[0]
                    check((sender, data[1:], True, "application/json", "push", ""))

                pushes = (b'{"ref": "refs/heads/main"}', b'{"object_kind": "push", "ref": "refs/heads/x"}', b"[" * 40)
                yield Target(
                    check=send,
                    seeds=[bytes([number]) + push for number in range(len(senders)) for push in pushes],
                    pieces=(b'"ref"', b'"object_kind"', b'"push"', b"refs/heads/main", b"null", b"1e999", b'"\\ud800"'),
                )
        case "git-trees":
            folder.mkdir()
            reading = test_git_trees.Reading(folder)
            blob = bytes.fromhex(reading.writer.write("blob", test_git_trees.SPEC.replace(b"DIR", b".")))
            entries = [
                mode + b" " + name + b"\0" + blob for mode in (b"100644", b"120000") for name in (b"a.yaml", b"b")
            ]
            yield Target(
                check=reading.check_tree,
                seeds=[entries[0], b"".join(entries), b"".join(reversed(entries))],
                pieces=(*entries, b"40000 ", b"160000 ", b"..\0", b".git\0", b"/", b"\\", b"\n", b"\xff"),
            )
        case "planted":
            yield Target(check=planted.check)
        case _:
            sys.exit(f"there is no target {name!r}")


def dictionary(pieces: Iterable[bytes]) -> str:
    """Return pieces in libFuzzer's form."""
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in piece) + '"\n' for piece in pieces)


def main(name: str, options: list[str]) -> None:
    """Fuzz until libFuzzer ends the process: with a failure, or when its time is over."""
    with tempfile.TemporaryDirectory() as scratch, target_called(name, Path(scratch) / "target") as target:
        corpus, words = Path(scratch) / "corpus", Path(scratch) / "words"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / f"{number:04}").write_bytes(seed)
        words.write_text(dictionary(target.pieces) or "# none\n")
        atheris.Setup([sys.argv[0], *options, f"-dict={words}", str(corpus)], target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
