"""The settings: one typed class, read live from `settings.TASKOPS`. No other module names that setting."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

KIB = 1024
MIB = 1024 * KIB
OWN_TASKS = "django_taskops."
JOURNALS = ("auto", "redis", "spool", "direct")
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True)
class Setting:
    """A default, and what a value has to be in words and as a test."""

    default: Any
    expected: str
    accepts: Callable[[Any], bool]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_bool_or_none(value: object) -> bool:
    return value is None or _is_bool(value)


def _is_text_or_none(value: object) -> bool:
    return value is None or (isinstance(value, str) and bool(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def _is_packages_or_none(value: object) -> bool:
    return value is None or (isinstance(value, (list, tuple)) and all(map(_is_package, value)))


def _is_package(value: object) -> bool:
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


def _is_journal(value: object) -> bool:
    return value in JOURNALS or (isinstance(value, str) and value.startswith(REDIS_SCHEMES))


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _is_retention(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and set(value) <= {"success", "failure", "dead_letter"}
        and all(days is None or _is_int(days) for days in value.values())
    )


DEFAULT_REDACT = (
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "authorization",
    "credential",
    "private_key",
    "session",
    "cookie",
    "card_number",
    "cvv",
    "iban",
)

SETTINGS: Mapping[str, Setting] = {
    "JOURNAL": Setting("auto", "'auto', 'redis', 'spool', 'direct' or the URL of a Redis", _is_journal),
    "JOURNAL_PREFIX": Setting("taskops", "a text", _is_text),
    "JOURNAL_MAX_BYTES": Setting(256 * MIB, "a number of bytes above 0", _is_int),
    "SPOOL_DIR": Setting(None, "a folder or None", _is_text_or_none),
    "SPOOL_MAX_BYTES": Setting(64 * MIB, "a number of bytes above 0", _is_int),
    "DATABASE": Setting(
        "default", "an alias of DATABASES", lambda value: isinstance(value, str) and value in settings.DATABASES
    ),
    "TRACK": Setting(("*",), "a list of patterns of task names", _is_texts),
    "IGNORE": Setting(("celery.*",), "a list of patterns of task names", _is_texts),
    "DEAD_LETTER": Setting("all", "'all' or 'tracked'", lambda value: value in ("all", "tracked")),
    "RECORD_RECEIVED": Setting(False, "True or False", _is_bool),
    "RECORD_EAGER": Setting(None, "True, False or None", _is_bool_or_none),
    "KEEP_SUCCESS": Setting(1.0, "a number from 0 to 1", _is_share),
    "PAYLOAD_KEYS": Setting((), "a list of Fernet keys", _is_texts),
    "PAYLOAD_MAX_BYTES": Setting(256 * KIB, "a number of bytes above 0", _is_int),
    "RESULT_MAX_BYTES": Setting(1 * KIB, "a number of bytes above 0", _is_int),
    "REDACT": Setting(DEFAULT_REDACT, "a list of parts of argument names", _is_texts),
    "RETENTION": Setting(
        {"success": 7, "failure": 90, "dead_letter": None},
        "days above 0 or None for 'success', 'failure', 'dead_letter'",
        _is_retention,
    ),
    "UNDELIVERED_AFTER": Setting(3600, "a number of seconds above 0", _is_int),
    "WORKER_TIMEOUT": Setting(60, "a number of seconds above 0", _is_int),
    "STATUS_PERMISSION": Setting(None, "a dotted path or None", _is_text_or_none),
    "VERSION": Setting(None, "a text or None", _is_text_or_none),
    "OWN_CODE": Setting(None, "a list of packages or None", _is_packages_or_none),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A key of `TASKOPS` that is unknown (`expected` lists the known ones) or has a value that it can't have."""

    key: str
    expected: str
    got: object
    unknown: bool


def problems() -> Iterator[Problem]:
    """What is wrong with `settings.TASKOPS`; nothing where all is well."""
    for key, value in _given().items():
        if key not in SETTINGS:
            yield Problem(key, ", ".join(sorted(SETTINGS)), value, unknown=True)
        elif not SETTINGS[key].accepts(value):
            yield Problem(key, SETTINGS[key].expected, value, unknown=False)


class Conf:
    """`conf.NAME` is the project's value of the setting, else its default, resolved at each read."""

    JOURNAL: str
    JOURNAL_PREFIX: str
    JOURNAL_MAX_BYTES: int
    SPOOL_DIR: str | None
    SPOOL_MAX_BYTES: int
    DATABASE: str
    TRACK: Sequence[str]
    IGNORE: Sequence[str]
    DEAD_LETTER: str
    RECORD_RECEIVED: bool
    RECORD_EAGER: bool | None
    KEEP_SUCCESS: float
    PAYLOAD_KEYS: Sequence[str]
    PAYLOAD_MAX_BYTES: int
    RESULT_MAX_BYTES: int
    REDACT: Sequence[str]
    RETENTION: Mapping[str, int | None]
    UNDELIVERED_AFTER: int
    WORKER_TIMEOUT: int
    STATUS_PERMISSION: str | None
    VERSION: str | None
    OWN_CODE: Sequence[str] | None

    def __getattr__(self, name: str) -> Any:
        """Raises AttributeError for a name that is no setting, ImproperlyConfigured where TASKOPS is no dict."""
        if name not in SETTINGS:
            raise AttributeError(f"expected one of {', '.join(SETTINGS)}, got {name!r}")
        return _given().get(name, SETTINGS[name].default)

    def given(self) -> Mapping[str, Any]:
        """What the project has set. Raises ImproperlyConfigured where TASKOPS is no dict."""
        return _given()

    def tracks(self, task_name: str) -> bool:
        """True where runs of this task are recorded: a pattern of TRACK matches and none of IGNORE, and it is none of
        ours."""
        return (
            _matches(task_name, tuple(self.TRACK))
            and not _matches(task_name, tuple(self.IGNORE))
            and not task_name.startswith(OWN_TASKS)
        )

    def retention(self) -> Mapping[str, int | None]:
        """Days by outcome ("success", "failure", "dead_letter"), None for ever; what the project does not name has its
        default."""
        return {**SETTINGS["RETENTION"].default, **self.RETENTION}

    def version(self) -> str:
        """The deployed version, "" where none is known."""
        return self.VERSION or os.environ.get("TASKOPS_VERSION", "")


@lru_cache(maxsize=1024)
def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


_NOTHING: Mapping[str, Any] = {}


def _given() -> Mapping[str, Any]:
    given: Mapping[str, Any] = getattr(settings, "TASKOPS", _NOTHING)
    if given.__class__ is not dict and not isinstance(given, Mapping):  # asked many times for each task
        raise ImproperlyConfigured(f"TASKOPS: expected a dict, got {type(given).__name__}: {given!r}")
    return given


conf = Conf()
