"""A process that is killed or stopped while it fetches for its node: the others take over what it had begun."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.loading.servers import ROOT, RangeServer
from tests.loading.shape import Shape
from tests.loading.swarm_process import serve_tracker
from tests.loading.swarming import Locked

SIZE = 24 << 20
CONTENT = random.Random(8).randbytes(SIZE)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("span", [(0, SIZE), (1 << 20, SIZE - (2 << 20))], ids=["whole", "part"])
def test_what_a_process_had_begun_is_soon_fetched_by_another_of_its_node(
    tmp_path: Path, tracker: Locked, span: tuple[int, int], how: signal.Signals
) -> None:
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "w").write_bytes(CONTENT)
    serve_tracker(tracker, str(tmp_path / "tracker"))
    shape = Shape(first_byte=0.01, total_bandwidth=8e6)
    with RangeServer(tmp_path / "origin", shape) as origin:
        program = [sys.executable, "-m", "tests.loading.swarm_process", str(tmp_path / "tracker"), str(tmp_path)]
        command = [*program, origin.url("w"), *map(str, span)]
        victim, survivor = (subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2))
        deadline = time.monotonic() + 60
        while origin.counters().body < SIZE // 6:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        victim.send_signal(how)
        began, expected = time.monotonic(), hashlib.sha256(CONTENT[slice(*span)]).hexdigest()
        assert survivor.communicate(timeout=60)[0].strip() == expected
        assert time.monotonic() - began < 15
        assert origin.counters().body <= 1.5 * SIZE, "what was under way is fetched again, and nothing else"
        victim.send_signal(signal.SIGCONT)
        said = victim.communicate(timeout=60)[0].strip()
        assert said == ("" if how is signal.SIGKILL else expected)
