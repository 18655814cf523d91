"""`heliostat comment`: put a plan under a pull or merge request, always the same comment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
import httpx

from reconciler.api.plans import LARGEST_BODY
from reconciler.cli.plan_markdown import markdown, marker
from reconciler.cli.replies import read
from specs.planned import FORMAT, PlannedChange

PATIENCE = httpx.Timeout(20.0, connect=5.0)
PER_PAGE = 100
MOST_PAGES = 30
"""A request with more comments than that is not read to its end: the plan then comes as a new comment."""


class Forge(Protocol):
    """Where the comments are."""

    def head(self) -> str:
        """Return the id of the request's newest commit."""

    def comments(self) -> Iterator[tuple[str, str]]:
        """Yield the address and the text of each comment of ours: its author could rewrite any other later."""

    def create(self, text: str) -> None:
        """Add a comment."""

    def update(self, address: str, text: str) -> bool:
        """Rewrite a comment; False when it is not ours to rewrite."""


@dataclass(frozen=True, kw_only=True)
class _Api:
    """One forge's HTTP API."""

    url: str
    headers: Mapping[str, str]

    def call(self, method: str, address: str, **rest: Any) -> httpx.Response:
        try:
            return httpx.request(method, address, headers=self.headers, timeout=PATIENCE, trust_env=True, **rest)
        except httpx.HTTPError as error:
            raise click.ClickException(f"{self.url} did not answer: {error or type(error).__name__}") from error

    def read(self, address: str, **params: int) -> Any:
        answer = self.call("GET", address, params=params)
        _check(answer)
        return answer.json()

    def pages(self, address: str) -> Iterator[Any]:
        for page in range(1, MOST_PAGES + 1):
            found = self.read(address, per_page=PER_PAGE, page=page)
            yield from found
            if len(found) < PER_PAGE:
                return

    def send(self, method: str, address: str, text: str) -> httpx.Response:
        return self.call(method, address, json={"body": text})


def _check(answer: httpx.Response) -> None:
    if answer.is_error:
        raise click.ClickException(f"{answer.request.method} {answer.request.url.path}: {answer.status_code}")


@dataclass(frozen=True, kw_only=True)
class GitHub:
    """Comments of a pull request."""

    api: _Api
    repository: str
    number: str

    def head(self) -> str:
        """Return the id of the pull request's newest commit."""
        found = self.api.read(f"{self.api.url}/repos/{self.repository}/pulls/{self.number}")
        return str(found["head"]["sha"])

    def comments(self) -> Iterator[tuple[str, str]]:
        """Yield the address and the text of each comment of ours; of any app if we are one, for apps have no name."""
        answer = self.api.call("GET", f"{self.api.url}/user")
        own = {"login": answer.json()["login"]} if answer.status_code == 200 else {"type": "Bot"}
        for found in self.api.pages(self._comments):
            if own.items() <= (found.get("user") or {}).items():
                address = f"{self.api.url}/repos/{self.repository}/issues/comments/{int(found['id'])}"
                yield address, str(found["body"] or "")

    def create(self, text: str) -> None:
        """Add a comment."""
        _check(self.api.send("POST", self._comments, text))

    def update(self, address: str, text: str) -> bool:
        """Rewrite a comment; False when it is somebody else's."""
        return _updated(self.api.send("PATCH", address, text))

    @property
    def _comments(self) -> str:
        return f"{self.api.url}/repos/{self.repository}/issues/{self.number}/comments"


@dataclass(frozen=True, kw_only=True)
class GitLab:
    """Notes of a merge request."""

    api: _Api
    project: str
    number: str

    def head(self) -> str:
        """Return the id of the merge request's newest commit."""
        return str(self.api.read(self._request)["sha"])

    def comments(self) -> Iterator[tuple[str, str]]:
        """Yield the address and the text of each note of ours."""
        own = int(self.api.read(f"{self.api.url}/user")["id"])
        for found in self.api.pages(f"{self._request}/notes"):
            if int(found["author"]["id"]) == own:
                yield f"{self._request}/notes/{int(found['id'])}", str(found["body"] or "")

    def create(self, text: str) -> None:
        """Add a note."""
        _check(self.api.send("POST", f"{self._request}/notes", text))

    def update(self, address: str, text: str) -> bool:
        """Rewrite a note; False when it is somebody else's."""
        return _updated(self.api.send("PUT", address, text))

    @property
    def _request(self) -> str:
        return f"{self.api.url}/projects/{self.project}/merge_requests/{self.number}"


def _updated(answer: httpx.Response) -> bool:
    if answer.status_code in (401, 403, 404):
        return False
    _check(answer)
    return True


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--on", "forge", type=click.Choice(["github", "gitlab"]), required=True, help="Where the request is.")
@click.option("--number", required=True, help="The pull or merge request's number.")
@click.option("--head", metavar="SHA", help="Refuse when the request's newest commit is another one.")
@click.option("--title", default="", help="What tells this plan from others in one request, such as a cluster.")
def comment(file: Path, forge: str, number: str, head: str | None, title: str) -> None:
    """Put the plan in FILE (of `plan --out`) under a pull or merge request.

    The comment with the same first line is updated, or a new one made. The text is made here, whoever made the plan:
    it says nothing in the name of who comments. On GitHub it takes GITHUB_REPOSITORY,
    GITHUB_TOKEN and GITHUB_API_URL from the environment, on GitLab CI_PROJECT_ID, HELIOSTAT_GITLAB_TOKEN and
    CI_API_V4_URL.
    """
    text = markdown(_plan(file), title)
    if not number.isdecimal() or not number.isascii() or len(number) > 12:
        raise click.UsageError("--number is the request's number")
    found = _github(number) if forge == "github" else _gitlab(number)
    if head is not None and found.head() != head:
        raise click.ClickException(f"the request's newest commit is not {head[:12]}: this plan is of another one")
    put(found, marker(title), text)


def _plan(file: Path) -> PlannedChange:
    """Return the plan in a file that a stranger may have written."""
    try:
        if file.stat().st_size > LARGEST_BODY:
            raise ValueError("it is too large")
        document = json.loads(file.read_bytes())
        if (document.get("kind"), document.get("version")) != ("Plan", FORMAT):
            raise ValueError("it has another form")
        return read(PlannedChange, document)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise click.ClickException(f"{file} is no plan: make it with heliostat plan --out") from error


def put(forge: Forge, first_line: str, text: str) -> None:
    """Update our comment that begins with this line, or add one."""
    for address, was in forge.comments():
        if was.partition("\n")[0].strip() == first_line and (
            was.strip() == text.strip() or forge.update(address, text)
        ):
            return
    forge.create(text)


def _github(number: str) -> GitHub:
    url = _environment("GITHUB_API_URL", "https://api.github.com")
    headers = {"Authorization": f"Bearer {_environment('GITHUB_TOKEN')}", "Accept": "application/vnd.github+json"}
    return GitHub(api=_Api(url=url, headers=headers), repository=_environment("GITHUB_REPOSITORY"), number=number)


def _gitlab(number: str) -> GitLab:
    url, headers = _environment("CI_API_V4_URL"), {"PRIVATE-TOKEN": _environment("HELIOSTAT_GITLAB_TOKEN")}
    return GitLab(api=_Api(url=url, headers=headers), project=_environment("CI_PROJECT_ID"), number=number)


def _environment(name: str, default: str = "") -> str:
    found = os.environ.get(name) or default
    if not found:
        raise click.UsageError(f"{name} is not set in the environment")
    return found.rstrip("/")
