from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.adapters.git_location import check_branch, locate, mask
from reconciler.errors import Stalled


def test_a_path_is_a_folder_to_watch(tmp_path: Path) -> None:
    located = locate(str(tmp_path / ".." / tmp_path.name))
    assert (located.folder, located.address) == (tmp_path, str(tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        "file:///srv/models.git",
        "https://example.com/models.git",
        "http://[::1]:8080/models",
        "ssh://git@example.com:2222/models",
        "git@example.com:team/models.git",
        "[::1]:models.git",
    ],
)
def test_an_url_is_asked_not_watched(url: str) -> None:
    located = locate(url)
    assert (located.address, located.folder, located.login, located.shown) == (url, None, None, url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "--upload-pack=touch /tmp/x",
        "ext::sh -c 'touch /tmp/x'",
        "ext://sh",
        "fd::7",
        "ftp://example.com/x",
        "https://example.com:port/x",
        "https://example.com/a\nb",
    ],
)
def test_what_is_no_safe_address_is_refused(url: str) -> None:
    with pytest.raises(Stalled):
        locate(url)


def test_a_password_leaves_the_address_and_is_never_shown() -> None:
    located = locate("https://bot:p%40ss@example.com:8443/models.git")
    assert located.address == "https://example.com:8443/models.git"
    assert located.shown == "https://***@example.com:8443/models.git"
    assert located.login is not None
    assert (located.login.scope, located.login.username) == ("https://example.com:8443", "bot")
    assert located.login.password == "p@ss"
    assert "p@ss" not in repr(located)
    assert "p%40ss" not in repr(located)


def test_a_name_leaves_the_address_too_for_it_may_be_a_token() -> None:
    located = locate("https://ghp_abc@example.com/models.git")
    assert (located.address, located.username) == ("https://example.com/models.git", "ghp_abc")
    assert located.login is None, "whoever knows the password of that name is asked"
    assert "ghp_abc" not in repr(located)
    empty = locate("https://ghp_abc:@example.com/models.git").login
    assert empty is not None
    assert (empty.username, empty.password) == ("ghp_abc", "")


def test_a_refusal_shows_no_password() -> None:
    with pytest.raises(Stalled) as refusal:
        locate("ftp://bot:hunter2@example.com/x")
    assert "hunter2" not in refusal.value.reason


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://token@example.com/x now", "at https://***@example.com/x now"),
        ("'https://a:b@c.d/x?private_token=abc&x=1'", "'https://***@c.d/x?private_token=***&x=1'"),
        ("ssh://git@example.com/x", "ssh://git@example.com/x"),
        ("ssh://git:secret@example.com/x", "ssh://***@example.com/x"),
        ("https://example.com/a@b", "https://example.com/a@b"),
        ("http://u:p@h/x http://v:q@i/y", "http://***@h/x http://***@i/y"),
    ],
)
def test_masking_blanks_out_secrets_only(text: str, shown: str) -> None:
    assert mask(text) == shown


def test_masking_blanks_out_given_secrets_wherever_they_stand() -> None:
    assert mask("password hunter2 of bot", "hunter2", "") == "password *** of bot"


@pytest.mark.parametrize("branch", ["main", "release/1.2", "feature/a-b_c", "v1", "añb"])
def test_ordinary_branches_are_accepted(branch: str) -> None:
    assert check_branch(branch) == branch


@pytest.mark.parametrize(
    "branch",
    [
        "",
        "-x",
        "a..b",
        "a b",
        "a~1",
        "a^",
        "a:b",
        "a.lock",
        "x.lock/y",
        "/a",
        "a/",
        "a//b",
        "@{-1}",
        "a\nb",
        ".a",
        "a/.b",
    ],
)
def test_names_that_git_would_read_otherwise_are_refused(branch: str) -> None:
    with pytest.raises(Stalled):
        check_branch(branch)
