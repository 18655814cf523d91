"""What may be shown of a spec's values: secrets in them stay where they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

HIDDEN = "***"

_SECRET_OWNERS = frozenset({"env_vars"})
"""Mappings all of whose values are secrets."""

_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_.-])(?:pass(?:word|wd|phrase)?|secrets?|tokens?|credentials?|api_?keys?|private_?keys?|access_?keys?)$"
    r"|(?:password|secret|token|credential|apikey|privatekey|accesskey)s?$"
)
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s'\"]*@")
_SECRET_ARGUMENT = re.compile(
    r"(?i)([?&;](?:[a-z0-9_.-]*(?:token|secret|password|passwd|signature|credential|api_?key|access_?key)[a-z0-9_.-]*"
    r"|sig|sas|auth|key)=)[^&;\s'\"#]+"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}")
_KNOWN_TOKENS = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}"
    r"|sk-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16})"
)


def is_secret(value: Any, path: Sequence[str | int]) -> bool:
    """Return whether the value at `path` of a document is to be hidden whole: by where it is, or what it is called.

    A number is no secret by its name alone: `max_tokens` is none.
    """
    texts = [step for step in path if isinstance(step, str)]
    if any(step in _SECRET_OWNERS for step in texts[:-1]):
        return True
    return isinstance(value, str) and bool(texts and _SECRET_NAME.search(texts[-1]))


def masked_text(text: str) -> str:
    """Return a text without the names, passwords and tokens in its addresses, and without well-known tokens."""
    text = _USER_IN_ADDRESS.sub(f"{HIDDEN}@", text)
    text = _SECRET_ARGUMENT.sub(rf"\g<1>{HIDDEN}", text)
    return _KNOWN_TOKENS.sub(HIDDEN, _BEARER.sub(rf"\g<1> {HIDDEN}", text))


def masked(value: Any, path: tuple[str | int, ...] = ()) -> Any:
    """Return a value at `path` of a document with every secret hidden."""
    match value:
        case dict():
            return {key: masked(item, (*path, key)) for key, item in value.items()}
        case list() | tuple():
            return [masked(item, (*path, index)) for index, item in enumerate(value)]
        case _ if is_secret(value, path):
            return HIDDEN
        case str():
            return masked_text(value)
        case _:
            return value
