"""What may be shown of a spec's values: secrets in them stay where they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

HIDDEN = "***"

_SECRET_OWNERS = frozenset({"env_vars"})
"""Mappings all of whose values are secrets."""

_REFERENCES = "envFrom"
"""Says where secrets are read from, whatever they are called, and is to be seen."""

_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_.-])(?:pass(?:word|wd|phrase)?|secrets?|tokens?|credentials?|jwt|auth(?:orization)?"
    r"|connection_?strings?|(?:api|private|access|account|auth|encryption|master|session|signing|ssh|storage"
    r"|anthropic|hf|openai)[_.-]?keys?)$"
    r"|(?:password|secret|token|credential|apikey|privatekey|accesskey|authorization)s?$"
)
# A value may be a megabyte of whatever somebody commits: no pattern may go over the same part again and again.
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s'\"]*@")
_SECRET_ARGUMENT = re.compile(
    r"(?i)([?&;](?:[a-z0-9_.-]{0,64}(?:token|secret|password|passwd|signature|credential|api_?key|access_?key)"
    r"[a-z0-9_.-]{0,64}"
    r"|sig|sas|auth|key)=)[^&;\s'\"#]+"
)
_SECRET_ASSIGNMENT = re.compile(
    r"(?i)((?:^|[\s'\";,])-{0,2}[a-z0-9_.-]*(?:token|secret|password|passwd|credential|api[_-]?key|access[_-]?key)s?"
    r"(?:=|\s*:\s+))(?!\d+(?:[\s;,]|$))[^\s'\";,]+"
)
"""`DB_PASSWORD=x`, `--token=x`, `password: x`; a number is none, as in `--max-tokens=512`."""
_SECRET_OPTION = re.compile(r"(?i)((?:^|\s)--[a-z-]*(?:token|secret|password|api-key)\s+)[^\s'\"-][^\s'\"]*")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}")
_KNOWN_TOKENS = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}"
    r"|sk-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}|A[KS]IA[0-9A-Z]{16}"
    r"|AIza[A-Za-z0-9_-]{30,})"
)
_WEB_TOKEN = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")


def is_secret(value: Any, path: Sequence[str | int]) -> bool:
    """Return whether the value at `path` of a document is to be hidden whole: by where it is, or what it is called.

    What is below a name of secrets, such as `credentials`, is one too.

    A number is no secret by its name alone: `max_tokens` is none.
    """
    texts = [step for step in path if isinstance(step, str)]
    if _REFERENCES in texts:
        return False
    if any(step in _SECRET_OWNERS for step in texts[:-1]):
        return True
    return isinstance(value, str) and any(map(_SECRET_NAME.search, texts))


def masked_text(text: str) -> str:
    """Return a text without the names, passwords and tokens in its addresses, and without well-known tokens."""
    for named in (_SECRET_ASSIGNMENT, _SECRET_OPTION):
        text = named.sub(rf"\g<1>{HIDDEN}", text)
    return masked_tokens(text)


def masked_tokens(text: str) -> str:
    """Return a text of ours without what in it is a secret by its own form, wherever it was written.

    What follows a name is left: our own words speak of tokens and secrets too.
    """
    text = _SECRET_ARGUMENT.sub(rf"\g<1>{HIDDEN}", _USER_IN_ADDRESS.sub(f"{HIDDEN}@", text))
    text = _WEB_TOKEN.sub(HIDDEN, _PRIVATE_KEY.sub(HIDDEN, text))
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
