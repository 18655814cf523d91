"""Whatever a spec file holds, it is read or refused with its place: no crash, no hang."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import strategies as st

from specs.parse import is_spec_file, read_desired
from tests.fuzz.budget import fuzz
from tests.unit.specs.commits import COMMIT, KnownFolders

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
HEAD = "apiVersion: heliostat.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: chat}}\nspec:\n"
RICH = (
    HEAD.format(kind="Service")
    + """\
  route: /v1/chat
  maxRequestDuration: 1h30m
  dependsOn: [embeddings]
  application:
    import_path: chat.app:build
    args: {model: small, nested: [1, {a: null}]}
    runtime_env: {working_dir: app, env_vars: {A: b}, envFrom: {KEY: {file: /run/secrets/a}}, pip: [numpy==1.26]}
    deployments:
      - {name: Chat, num_replicas: 4, ray_actor_options: {num_cpus: 1}}
  rollout:
    steps: [{setWeight: 10}, {pause: {duration: 60s}}, {analysis: {}}]
    maxSurge: 25%
    sticky: {cookie: chat-rev}
  analysis: {successRate: {min: 99%}, latency: {quantile: 99, maxIncrease: 30%}}
"""
)
POLICY = (
    HEAD.format(kind="ClusterPolicy")
    + """\
  prune: {enabled: true, maxServices: 2, maxFraction: 20%}
  windows: [{allow: "Mon-Fri 09:00-17:00", timezone: Europe/Berlin}]
"""
)
SEEDS = [RICH.encode(), POLICY.encode(), *(path.read_bytes() for path in sorted(EXAMPLES.rglob("*.yaml")))]
PIECES = [text[:90] for text in SEEDS]
TOKENS = [
    *(b"{", b"}", b"[", b"]", b": ", b"- ", b"\n", b"\t", b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ", b"? "),
    *(
        b"---\n",
        b"...\n",
        b"%YAML 1.1\n",
        b"|\n",
        b">-\n",
        b'"',
        b"'",
        b"#",
        b"~",
        b"null",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
    ),
    *(b"1e999", b"-0", b"0x1F", b".nan", b"9" * 400, b"2001-01-01", b"yes", b"\xe2\x80\xa8", b"\xf0\x9f\x92\xa5"),
    *(b"heliostat.dev/v1alpha1", b"envFrom", b"setWeight", b"100%", b"-1", b"10000h", b"Service", b"name"),
]
LINE_ENDS = (b"\n", b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")
"""What YAML 1.1 takes for the end of a line."""
PLACE = re.compile(r"[ab]\.yaml:\d+:\d+: .+")


@st.composite
def files(draw: st.DrawFn) -> dict[str, bytes]:
    """Return one or two files: a good one with some bytes of it replaced, doubled, or mixed with another."""
    found = {}
    for name in draw(st.sampled_from([("a.yaml",), ("a.yaml", "b.yaml")])):
        text = draw(st.sampled_from(SEEDS))
        for _ in range(draw(st.integers(0, 6))):
            at = draw(st.integers(0, len(text)))
            length = draw(st.sampled_from([0, 0, 1, 2, 10, 200]))
            piece = draw(
                st.one_of(st.sampled_from(TOKENS), st.binary(max_size=6), st.sampled_from(SEEDS).map(lambda t: t[:90]))
            )
            text = text[:at] + piece * draw(st.sampled_from([1, 1, 1, 2, 300])) + text[at + length :]
        found[name] = text
    return found


def check(value: object) -> None:
    assert isinstance(value, dict)
    desired = read_desired(COMMIT, value, KnownFolders())
    for error in desired.errors:
        assert PLACE.fullmatch(str(error)), str(error)
        lines = sum(value[error.path].count(end) for end in LINE_ENDS) + 2
        assert 1 <= error.line <= lines + 200, str(error)
    for content in value.values():
        is_spec_file(content)


def test_any_spec_file_is_read_or_refused_with_its_place() -> None:
    assert fuzz(files(), check) > 20
