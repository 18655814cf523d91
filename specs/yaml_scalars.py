"""What a scalar of a YAML file means: JSON values only, and nothing that YAML 1.1 and 1.2 read differently."""

from __future__ import annotations

import re

JsonScalar = str | int | float | bool | None

LARGEST_INTEGER = 2**63 - 1
"""Beyond it JSON readers disagree; `int` itself refuses thousands of digits."""

_TAG = "tag:yaml.org,2002:"

_CONSTANTS: dict[str, JsonScalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_LOOSE_BOOLEANS = {
    **dict.fromkeys(("yes", "Yes", "YES", "on", "On", "ON"), "true"),
    **dict.fromkeys(("no", "No", "NO", "off", "Off", "OFF"), "false"),
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"(?:\.[0-9]+|[-+]?[0-9]+\.[0-9]*)(?:[eE][-+][0-9]+)?")
_LOOSE_FLOAT = re.compile(r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?")
_LOOSE_INTEGER = re.compile(r"([-+]?)(?:0[oO]?([0-7_]+)|0b([01_]+)|0x([0-9a-fA-F_]+))")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?")
_MAYBE_SPECIAL = frozenset("0123456789+-.~tTfFnNyYoO")
"""First characters of every plain scalar that is not simply text: most scalars are done after one look."""


def plain_scalar(text: str) -> JsonScalar:
    """Return the value of an unquoted scalar. Raises ValueError saying what to write instead."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _MAYBE_SPECIAL:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text, 10)
    if _HEX.fullmatch(text):
        return _integer(text, 16)
    if _FLOAT.fullmatch(text):
        return _float(text)
    _refuse_ambiguous(text)
    return text


def tagged_scalar(tag: str, text: str) -> JsonScalar:
    """Return the value of a scalar with an explicit tag such as `!!str`. Raises ValueError for others than JSON's."""
    if tag in ("!", _TAG + "str"):
        return text
    value = plain_scalar(text)
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}
    wanted = kinds.get(tag.removeprefix(_TAG))
    if wanted is None or type(value) not in wanted:
        raise ValueError(f"{_short(tag)} does not fit here: only plain JSON values are allowed; leave the tag out")
    return value


def is_container_tag(tag: str | None) -> bool:
    """Return whether a mapping or list with this tag is still plain JSON."""
    return tag is None or tag in ("!", _TAG + "map", _TAG + "seq")


def _short(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag


def _integer(text: str, base: int) -> int:
    value = int(text, base) if len(text) <= 20 else LARGEST_INTEGER + 1
    if abs(value) > LARGEST_INTEGER:
        raise ValueError(f"{_excerpt(text)} is too large for a number: quote it to make it text")
    return value


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{_excerpt(text)} is too large for a number: quote it to make it text")
    return value


def _refuse_ambiguous(text: str) -> None:
    if text in _LOOSE_BOOLEANS:
        raise ValueError(_two_ways(text, _LOOSE_BOOLEANS[text]))
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a JSON number: write a number, or quote it to make it text")
    if _DATE.fullmatch(text):
        raise ValueError(f'{text} would be a date, which JSON does not have: quote it ("{text}")')
    if match := _LOOSE_INTEGER.fullmatch(text):
        raise ValueError(_two_ways(text, _as_decimal(match)))
    if _LOOSE_FLOAT.fullmatch(text):
        raise ValueError(_two_ways(text, _as_plain_number(text)))
    if _SEXAGESIMAL.fullmatch(text):
        raise ValueError(f'{text} is a number to some YAML readers and text to others: quote it ("{text}")')


def _two_ways(text: str, number: str) -> str:
    return f'YAML readers disagree about {_excerpt(text)}: write {number}, or "{_excerpt(text)}" in quotes for text'


def _as_decimal(match: re.Match[str]) -> str:
    sign, octal, binary, hexadecimal = match.groups()
    digits, base = next((text, base) for text, base in ((octal, 8), (binary, 2), (hexadecimal, 16)) if text)
    digits = digits.replace("_", "")
    return sign.replace("+", "") + str(int(digits or "0", base)) if len(digits) < 60 else "a decimal number"


def _as_plain_number(text: str) -> str:
    bare = text.replace("_", "")
    if len(bare) > 60:
        return "a decimal number"
    if re.fullmatch(r"[-+]?[0-9]+", bare):
        return str(int(bare))
    mantissa, mark, exponent = repr(float(bare)).partition("e")
    if not mark:
        return mantissa
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent if exponent[0] in '+-' else '+' + exponent}"


def _excerpt(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
