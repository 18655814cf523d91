"""Plans over HTTP: what is about to be done (GET), and what a proposal would do (POST). Nothing is changed by asking.

A POST needs the token as a command does: it costs a daemon's time, and may make it fetch a commit. Files of a
proposal are read as text; nothing in them is run, imported or resolved, secrets that they name least of all.
"""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reconciler.api.documents import plan_document
from reconciler.api.guard import Access, check_mutation
from reconciler.api.problems import Problem
from reconciler.api.reads import backend_of
from reconciler.planner import Folder, Proposal
from specs.desired import Unread, Unreadable

LARGEST_BODY = 16 * 1024 * 1024
"""Specs of thousands of services; more is something else."""

MOST_ENTRIES = 20_000
FIELDS = frozenset({"commit", "subject", "files", "folders", "bases", "unread"})

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_HALF = re.compile("[\ud800-\udfff]")
_TREE = re.compile(r"[0-9a-f]{40}")


async def answer(request: Request) -> Response:
    """Answer with a plan."""
    proposal = None
    if request.method == "POST":
        access: Access = request.app.state.access
        check_mutation(request, access)
        proposal = read_proposal(await _body(request))
    return JSONResponse(plan_document(await backend_of(request).plan(proposal)))


async def apply(request: Request) -> Response:
    """Follow the commit of a plan, if nothing has moved since it was made."""
    access: Access = request.app.state.access
    check_mutation(request, access)
    given = _read_object(await _body(request), frozenset({"base", "commit", "live"}))
    base, commit = (_sha(given.get(name), name) for name in ("base", "commit"))
    live = _text(given.get("live", ""), "live")
    await backend_of(request).apply(base, commit, live)
    return JSONResponse({"commit": commit, "pinned": True}, status_code=202)


async def release(request: Request) -> Response:
    """Follow the branch again."""
    access: Access = request.app.state.access
    check_mutation(request, access)
    _read_object(await _body(request), frozenset())
    return JSONResponse({"commit": await backend_of(request).release(), "pinned": False}, status_code=202)


async def _body(request: Request) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, "send JSON, with Content-Type: application/json")
    chunks, size = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST_BODY:
            raise Problem(413, f"the body is larger than {LARGEST_BODY >> 20} MiB", {"Connection": "close"})
    return b"".join(chunks)


def read_proposal(body: bytes) -> Proposal:
    """Return what a body proposes. Raises Problem saying what is wrong with it."""
    given = _read_object(body, FIELDS)
    commit = _sha(given.get("commit"), "commit")
    files = given.get("files")
    return Proposal(
        commit=commit,
        subject=_text(given.get("subject", ""), "subject")[:200],
        files=_files(files) if files is not None else None,
        bases=_files(given.get("bases", {})),
        unread=tuple(_unread(entry) for entry in _entries(given.get("unread", []), "unread")),
        folders=tuple(_folder(entry) for entry in _entries(given.get("folders", []), "folders")),
    )


def _read_object(body: bytes, fields: frozenset[str]) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from error
    if not isinstance(given, dict) or not given.keys() <= fields:
        raise Problem(400, f"send an object with nothing but {', '.join(sorted(fields)) or 'braces'}")
    return given


def _sha(given: object, name: str) -> str:
    if not isinstance(given, str) or not _SHA.fullmatch(given):
        raise Problem(400, f'"{name}" is the full id of a commit: 40 hex digits')
    return given


def _files(given: object) -> dict[str, bytes]:
    if not isinstance(given, dict) or len(given) > MOST_ENTRIES:
        raise Problem(400, f'"files" is an object of at most {MOST_ENTRIES} paths with their texts')
    return {_text(path, "files"): _bytes(text) for path, text in given.items()}


def _bytes(text: object) -> bytes:
    """Return a file as it was: bytes that are no UTF-8 come as halves of surrogate pairs."""
    if not isinstance(text, str):
        raise Problem(400, '"files" must hold texts')
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="replace")


def _entries(given: object, name: str) -> list[Any]:
    if not isinstance(given, list) or len(given) > MOST_ENTRIES:
        raise Problem(400, f'"{name}" is a list of at most {MOST_ENTRIES} entries')
    return given


def _folder(given: object) -> Folder:
    if not isinstance(given, dict) or given.keys() != {"path", "keepFolder", "tree"}:
        raise Problem(400, "a folder is an object with path, keepFolder and tree")
    tree, keep = _text(given["tree"], "tree"), given["keepFolder"]
    if not _TREE.fullmatch(tree) or not isinstance(keep, bool):
        raise Problem(400, "a folder's tree is 40 hex digits, and keepFolder true or false")
    return Folder(path=_text(given["path"], "path"), keep_folder=keep, tree=tree)


def _unread(given: object) -> Unread:
    if not isinstance(given, dict) or given.keys() != {"path", "kind", "isSpec"}:
        raise Problem(400, "what is unread is an object with path, kind and isSpec")
    kind, is_spec = _text(given["kind"], "kind"), given["isSpec"]
    if kind not in set(Unreadable) or not isinstance(is_spec, bool):
        raise Problem(400, f"its kind is one of {', '.join(Unreadable)}, and isSpec true or false")
    return Unread(path=_text(given["path"], "path"), kind=Unreadable(kind), is_spec=is_spec)


def _text(given: object, name: str) -> str:
    if not isinstance(given, str):
        raise Problem(400, f'"{name}" must be text')
    if _HALF.search(given):  # No answer could say it.
        raise Problem(400, f'"{name}" holds half of a surrogate pair')
    return given
