"""What looks like a secret, in arguments and in text, is not shown and not recorded.

It is looked for by the names that values go by (options, variables, fields of connection strings, headers), and by forms that
nothing else has (user and password of a URL, tokens of well-known makers). Rather one word too many than a password.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["HIDDEN", "MOST_ARGUMENTS", "MOST_CHARACTERS", "redact", "redact_text", "scrub"]

HIDDEN = "***"

MOST_ARGUMENTS = 100
"""So many are recorded; the kernel takes two megabytes of them."""

MOST_CHARACTERS = 1000
"""So much of one argument is recorded."""

_LOOKED_AT = 4_000
_LEAST_TOKEN = 14
_TELLING = re.compile(r"[=:@\s]|^-[puU]")
"""What a short word has if there is a secret in it."""

_SECRET_NAME = re.compile(
    # "tokens" with a number behind it is a limit, and a tokenizer is a file; both are looked at by `_is_secret`.
    r"(?ix) key | token | secret | passw | passphrase | credential | auth | bearer | cookie | signature"
    r"| (?<![a-z]) (?: pass | pw | pwd | pat | sas | sig | creds? ) (?![a-z])"
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TOKENIZER = re.compile(r"(?i)tokeni[sz]er")
_COUNTED = re.compile(r"(?i)tokens$")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

_ANOTHER_FLAG = re.compile(r"--[a-z][a-z-]*")
_SCHEMES = frozenset({"bearer", "basic", "digest", "negotiate"})
_USER_FLAGS = frozenset({"-u", "-U", "--user", "--proxy-user", "--userpwd", "--username-password"})
_IDS = re.compile(r"\d+:\d+")
_PORTS = re.compile(r"[\d.:\[\]-]{1,40}(?:/(?:tcp|udp))?")
_ASKS_BY_P = re.compile(r"(?i)(?:.*/)?(?:mysql\w*|mariadb[\w-]*|sshpass|mongo\w*|mycli)(?:\.exe)?")
_WORDS_IN_P = re.compile(
    r"-p(?:ackages|age|arallel|arams|ath|attern|edantic|id|ipe|lugin|olicy|orts?|refix|reserve|retty|rint0?|rocess|rocesses|rofile|"
    r"roject|rompt|rotocol|rovider|rune|thread|ublic)"
)

_NAME = (
    r"(?<![\w.-])[\w.-]{0,100}?(?:key|token|secret|passw|passphrase|credential|auth|signature)[\w.-]{0,100}"
    r"|(?<![a-z])(?:pass|pw|pwd|pat|sas|sig)"
)
_VALUE = r"'[^']*'|\"[^\"]*\"|\{[^}]*\}|[^\s;&,\"'}]+"
_FIELD = re.compile(rf"(?i)({_NAME})(\s?=\s?)({_VALUE})")
_QUOTED_FIELD = re.compile(rf"(?i)([\"'](?:{_NAME})[\"']\s*:\s*)([\"'])(?:\\.|(?!\2).)*\2")
_HEADER = re.compile(rf"(?i)^([\s/]*(?:[\w-]*(?:authorization|cookie)|(?:{_NAME}))\s*:\s*)(?!//)(\S.*)$")

_TOKEN_IN_PATH = re.compile(r"(://[^\s'\"]{1,200}?/t/)[^/\s'\"]+")
"""Of a channel of conda packages: https://host/t/TOKEN/channel."""

_USERINFO = re.compile(
    # Of user and password up to the last @ of all: a password with a slash in it is against the rules, and happens. A port is none.
    r"(?i)://(?:[^\s/?#@:\"']*:(?!\d+(?:[/?#\s]|$))[^\s\"'?]*@|[^\s/?#\"']*@)"
)
_DSN = re.compile(r"(?<![\w/.:+-])([\w.+-]{1,100}:)[^\s@/:]+@(?!sha\d)(?=[\w\[(])")
_SCHEME = re.compile(r"(?i)\b(bearer|basic)(\s+)(?=\S*[\d=._~+/-]|\S{16})[\w.~+/=-]{6,}")
_KNOWN = re.compile(
    r"\b(?:gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|hf_\w{16,}|sk-[\w-]{16,}|xox[abprs]-[\w-]{10,}|"
    r"A(?:KIA|SIA)[A-Z0-9]{12,}|AIza[\w-]{20,}|npm_\w{20,}|pypi-[\w-]{20,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)


@lru_cache(256)
def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(_HUMP.sub("-", _TOKENIZER.sub("", name))))


def scrub(text: str) -> str:
    """Return a text without what is a secret by its form alone: user and password of a URL, credentials of HTTP, known tokens."""
    if "://" in text:
        text = _USERINFO.sub(f"://{HIDDEN}@", text)
        text = _TOKEN_IN_PATH.sub(rf"\1{HIDDEN}", text)
    if "@" in text:
        text = _DSN.sub(rf"\1{HIDDEN}@", text)
    text = _SCHEME.sub(rf"\1\2{HIDDEN}", text)
    return _KNOWN.sub(HIDDEN, text)


def redact_text(text: str) -> str:
    """Return a text without that, and without the values of fields that are called like secrets."""
    text = scrub(text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _QUOTED_FIELD.sub(rf"\1\2{HIDDEN}\2", text)
    return _FIELD.sub(
        lambda match: match.group() if _is_count(match[1], match[3]) else f"{match[1]}{match[2]}{HIDDEN}", text
    )


def _is_count(name: str, value: str) -> bool:
    return bool(_NUMBER.fullmatch(value)) and bool(_COUNTED.search(name))


def _user(value: str) -> str:
    """Return user and password without the password; a pair of numbers is a user and a group."""
    user, colon, _ = value.partition(":")
    return f"{user}:{HIDDEN}" if colon and not _IDS.fullmatch(value) else value


def _short_p(argument: str, *, asks: bool) -> str | None:
    """Return ``-pPASSWORD`` without it; None if it is something else."""
    if not argument.startswith("-p") or len(argument) == 2 or _WORDS_IN_P.fullmatch(argument.partition("=")[0]):
        return None
    if _PORTS.fullmatch(argument[2:]) and not asks:
        return None
    return f"-p{HIDDEN}"


def _words(words: Sequence[str]) -> list[str]:
    """Redact words of a command line, each by itself and by the one before."""
    shown: list[str] = []
    before = ""
    asks = bool(words) and any(_ASKS_BY_P.fullmatch(word) for word in words[:8])
    for word in words:
        shown.append(_word(word, before, asks=asks))
        before = word
    return shown


def _hides_next(flag: str, word: str, *, asks: bool) -> bool:
    if flag.lower() in _SCHEMES:
        return True
    if flag.endswith("="):
        return _is_secret(flag)
    if not flag.startswith("-") or "=" in flag:
        return False
    if flag == "-p":
        return asks
    return _is_secret(flag) and not _ANOTHER_FLAG.fullmatch(word) and not _is_count(flag, word)


def _word(word: str, before: str, *, asks: bool) -> str:
    if _hides_next(before, word, asks=asks):
        return HIDDEN
    if before in _USER_FLAGS:
        return _user(word)
    if len(word) < _LEAST_TOKEN and not _TELLING.search(word):
        return word
    if any(character.isspace() for character in word):
        return _text(word)
    return _option(word) or _short_p(word, asks=asks) or redact_text(word)


def _option(word: str) -> str | None:
    """Return an option or variable with its value in the same word, without a secret; None if it is something else."""
    name, equals, value = word.partition("=")
    if equals and _is_secret(name) and "://" not in name and not _is_count(name, value):
        return f"{name}={HIDDEN}"
    if equals and name in _USER_FLAGS:
        return f"{name}={_user(value)}"
    if word[:2] in ("-u", "-U") and len(word) > 2 and "://" not in word:
        return word[:2] + _user(word[2:])
    return None


def _text(text: str) -> str:
    """Redact an argument that is a text of several words: a header, a script for a shell, a connection string."""
    pieces = re.split(r"(\s+)", redact_text(text))
    pieces[::2] = _words(pieces[::2])
    return "".join(pieces)


def _capped(text: str) -> str:
    left = len(text) - MOST_CHARACTERS
    return text if left <= 0 else f"{text[:MOST_CHARACTERS]}… ({left} more characters)"


def redact(argv: Sequence[str]) -> list[str]:
    """Return arguments as they may be shown and recorded: what looks like a secret is ``***``, and long ones are cut."""
    looked_at = [argument[:_LOOKED_AT] for argument in argv[:MOST_ARGUMENTS]]
    return [
        _capped(shown + argument[_LOOKED_AT:] if len(shown) >= MOST_CHARACTERS else shown)
        for shown, argument in zip(_words(looked_at), argv, strict=False)
    ]
