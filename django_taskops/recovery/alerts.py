"""Tells people of dead letters and of a blind recorder: by mail to ADMINS, and through webhooks.

One message a window for each channel and cause. A window is an entry of the outbox, so that it outlives the process;
the address of a webhook is a secret, and is nowhere but in the memory of the processes that are told it.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.db import transaction
from django.db.models import Count, Max, Min, Q, QuerySet
from django.urls import reverse
from django.utils import timezone, translation

from ..capture.text import storable
from ..conf import conf
from ..exceptions import TaskOpsError
from ..models import DeadLetter, OutboxEntry, OutboxKind, OutboxStatus
from ..states import DeadLetterReason, LetterStatus
from .channels import AlertNotSent, Channel, Message, deliver

MAIL = "mail"
LONGEST_WINDOW_SECONDS = 24 * 3600
COUNTED_AT_MOST = 100_000
DESCRIPTION_MAX_CHARS = 300


class InvalidAlert(TaskOpsError, TypeError):
    """An argument of `mail_admins` or `post_to_webhook` has a value that it can't have. Texts are not quoted: one of
    them may be the address of a webhook."""

    def __init__(self, argument: str, expected: str, got: str, advice: str) -> None:
        self.argument = argument
        self.expected = expected
        self.got = got
        super().__init__(f"alerts: {argument}: expected {expected}, got {got}; {advice}")


_channels: dict[str, Channel] = {}


def mail_admins(*, window: float = 60, details: bool = True, base_url: str | None = None) -> None:
    """Mails what happens to `settings.ADMINS`, from now on, in this process.

    `window` is how many seconds the failures of one cause are gathered before they are told, `details` whether the
    newest exception's text is told, `base_url` ("https://shop.example") where the admin is, for a link.
    Raises InvalidAlert.
    """
    _switch_on(MAIL, window=window, details=details, base_url=base_url)


def post_to_webhook(
    url: str, *, name: str = "webhook", window: float = 60, details: bool = True, base_url: str | None = None
) -> None:
    """Posts what happens to `url`, from now on, in this process, as JSON: {"text": ...}, with the escapes of Slack.

    `name` tells several webhooks apart. It is stored, `url` is not. The others as for `mail_admins`.
    Raises InvalidAlert.
    """
    if not _is_name(name):
        expected = "up to 40 small letters, digits, - and _"
        raise InvalidAlert("name", expected, _shown(name), "choose a short name that may be stored, as name='ops'")
    if not _is_address(url):
        expected = "the address of a webhook, beginning with https:// or http://, without user and password"
        raise InvalidAlert("url", expected, _shown(url), "copy it from the page of the service that receives it")
    _switch_on(f"webhook:{name}", window=window, details=details, base_url=base_url, url=url)


def _switch_on(name: str, *, window: float, details: bool, base_url: str | None, url: str = "") -> None:
    if not _is_number(window) or not 0 < window <= LONGEST_WINDOW_SECONDS:
        expected = f"a number of seconds above 0, of at most {LONGEST_WINDOW_SECONDS}"
        raise InvalidAlert("window", expected, _shown(window), "60 is the default")
    if not isinstance(details, bool):
        raise InvalidAlert("details", "True or False", _shown(details), "False leaves out the texts of exceptions")
    if base_url is not None and not _is_address(base_url):
        expected = "an address such as 'https://shop.example', or None"
        raise InvalidAlert("base_url", expected, _shown(base_url), "name the site that has the admin")
    channel = Channel(name=name, window=window, details=details, base_url=(base_url or "").rstrip("/"), url=url)
    if _channels.setdefault(name, channel) != channel:
        advice = "switch each on once, and give each webhook a name of its own"
        raise InvalidAlert("name", "one that is not in use", f"{name!r} again, with other arguments", advice)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[a-z0-9_-]{1,40}", value))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_address(value: object) -> bool:
    """True for what urllib takes as it is."""
    if not isinstance(value, str) or not re.fullmatch(r"https?://[!-~]+", value, re.IGNORECASE):
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:  # brackets that do not match, or a port that is no number
        return False


def _shown(value: object) -> str:
    return repr(value) if value is None or isinstance(value, (int, float)) else f"another {type(value).__name__}"


def gather(letter: DeadLetter) -> None:
    """Opens a window for the cause of `letter` in each channel where none is open: what follows until its end is told
    with it. The letter has to be committed."""
    now = timezone.now()
    windows = [_window(channel, letter, now) for channel in _channels.values()]
    opened = OutboxEntry.objects.filter(key__in=[window.key for window in windows]).values_list("key", "payload")
    firsts = {key: payload["first"] for key, payload in opened}
    for window in windows:  # to look is cheaper than to write, where thousands have one cause
        if window.key not in firsts or letter.pk < firsts[window.key]:
            _open(window)


def _open(window: OutboxEntry) -> None:
    """Where one is open, it begins with the earlier letter of the two: a letter may be committed after one that has a
    higher primary key, and be told later."""
    first = window.payload["first"]
    with transaction.atomic(using=conf.DATABASE):
        OutboxEntry.objects.bulk_create([window], ignore_conflicts=True)
        held = OutboxEntry.objects.select_for_update().filter(key=window.key).first()
        if held and first < held.payload["first"]:
            OutboxEntry.objects.filter(pk=held.pk).update(payload={**held.payload, "first": first})
    if held is None:  # its message has begun between the two statements
        _open(window)


def _window(channel: Channel, letter: DeadLetter, now: datetime) -> OutboxEntry:
    payload = {
        "channel": channel.name,
        "task_name": letter.task_name,
        "reason": letter.reason,
        "exception_type": letter.exception_type,
        "first": letter.pk,
    }
    due = now + timedelta(seconds=channel.window)
    return OutboxEntry(kind=OutboxKind.ALERT, key=_open_key(payload), payload=payload, available_at=due)


def _open_key(payload: Mapping[str, Any]) -> str:
    """Of the one window of a channel and cause that gathers."""
    cause = json.dumps([payload["task_name"], payload["reason"], payload["exception_type"]])
    return f"{OutboxKind.ALERT}:{payload['channel']}:{sha256(cause.encode()).hexdigest()}"


def gather_blindness(entry: OutboxEntry) -> None:
    """Has each channel tell what `entry`, of a blind recorder, says. The second time changes nothing."""
    alerts = [
        OutboxEntry(
            kind=OutboxKind.ALERT,
            key=f"{OutboxKind.ALERT}:{name}:{entry.key}",
            payload={"channel": name, "blind": entry.payload},
        )
        for name in _channels
    ]
    OutboxEntry.objects.bulk_create(alerts, ignore_conflicts=True)


def send(entry: OutboxEntry) -> None:
    """Delivers the message of an entry that is claimed. What it takes over from other entries is in its payload
    afterwards, also where it fails. Raises AlertNotSent, and what Django's mail raises."""
    if "blind" in entry.payload:
        channel = _channel_of(entry)
        deliver(channel, _of_blindness(channel, entry.payload["blind"]))
        return
    _take_over(entry)  # first: an entry that is given up must not hold the key
    channel = _channel_of(entry)
    letters = _letters(entry.payload)
    newest = letters.only("description", "exception_type", "died_at").order_by("-pk").first()
    if newest is not None:
        deliver(channel, _of_letters(channel, entry.payload, letters, newest))


def _take_over(entry: OutboxEntry) -> None:
    """Frees the key, so that a letter that comes after the count opens the next window, and adds what other entries of
    the same channel and cause have still to tell: one message when a webhook is back, however long it was away."""
    key = _open_key(entry.payload)
    now = timezone.now()
    with transaction.atomic(using=conf.DATABASE):
        OutboxEntry.objects.filter(pk=entry.pk).update(key=f"{key}:{entry.pk}")
        entry.refresh_from_db(fields=["payload"])  # an earlier letter may have been gathered since it was read
        waiting = OutboxEntry.objects.filter(kind=OutboxKind.ALERT, status=OutboxStatus.PENDING, key__startswith=key)
        free = waiting.filter(Q(claimed_until=None) | Q(claimed_until__lt=now)).exclude(pk=entry.pk)
        for other in free.select_for_update().order_by("pk"):
            entry.payload["first"] = min(entry.payload["first"], other.payload["first"])
            OutboxEntry.objects.filter(pk=other.pk).update(key=f"{key}:{other.pk}", status=OutboxStatus.DONE)
        OutboxEntry.objects.filter(pk=entry.pk).update(payload=entry.payload)


def _channel_of(entry: OutboxEntry) -> Channel:
    name = entry.payload["channel"]
    if name not in _channels:
        known = ", ".join(sorted(_channels)) or "none"
        raise AlertNotSent(
            f"expected the alerts {name!r} to be switched on in this process, got {known}; "
            "switch the same ones on in each worker, in AppConfig.ready"
        )
    return _channels[name]


def _letters(payload: Mapping[str, Any]) -> QuerySet[DeadLetter]:
    """Of the cause, from the first letter on. That one counts even where its reason has changed since."""
    cause = Q(reason=payload["reason"], exception_type=payload["exception_type"]) | Q(pk=payload["first"])
    letters: QuerySet[DeadLetter] = DeadLetter.objects.filter(
        cause, task_name=payload["task_name"], pk__gte=payload["first"]
    )
    return letters


def _of_letters(
    channel: Channel, payload: Mapping[str, Any], letters: QuerySet[DeadLetter], newest: DeadLetter
) -> Message:
    statuses: dict[str, Any] = {status.value: Count("pk", filter=Q(status=status)) for status in LetterStatus}
    found = letters.order_by("pk")[:COUNTED_AT_MOST].aggregate(
        first=Min("died_at"), last=Max("died_at"), count=Count("pk"), **statuses
    )
    subject = f"{_counted(found['count'])} of {payload['task_name'] or '?'}: {_label(payload['reason'])}"
    lines = [
        subject,
        f"Exception: {payload['exception_type']}" if payload["exception_type"] else "",
        _when(found["first"], max(found["last"], newest.died_at)),
        _standing({status: found[status.value] for status in LetterStatus}),
        f"Newest: {storable(newest.description, DESCRIPTION_MAX_CHARS)}" if _tells(channel, newest) else "",
        _link(channel, "deadletter", task_name=payload["task_name"]),
    ]
    return _message(subject, lines)


def _counted(count: int) -> str:
    at_least = "at least " if count == COUNTED_AT_MOST else ""
    return f"{at_least}{count:,} dead letter{'' if count == 1 else 's'}"


def _label(reason: str) -> str:
    """In English, as the words around it."""
    with translation.override("en"):
        return str(dict(DeadLetterReason.choices).get(reason, reason))


def _when(first: datetime, last: datetime) -> str:
    return f"At {_moment(first)}" if first == last else f"From {_moment(first)} to {_moment(last)}"


def _moment(moment: datetime) -> str:
    """In the project's time zone; without its name where USE_TZ is off."""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return f"{local:%Y-%m-%d %H:%M:%S %Z}".strip()


def _standing(counts: Mapping[LetterStatus, int]) -> str:
    """What has become of the letters by now."""
    if counts[LetterStatus.RESOLVED] == sum(counts.values()):
        return "None is open any more: all have succeeded since"
    parts = [f"{count:,} {status.value}" for status, count in counts.items() if count]
    return f"By now: {', '.join(parts)}" if counts[LetterStatus.OPEN] else f"None is open any more: {', '.join(parts)}"


def _tells(channel: Channel, letter: DeadLetter) -> bool:
    return channel.details and bool(letter.exception_type)


def _of_blindness(channel: Channel, told: Mapping[str, Any]) -> Message:
    subject = f"The recorder is blind: {told['detail']}"
    at = f"At {_moment(datetime.fromisoformat(told['since']))}"
    return _message(subject, [subject, at, _link(channel, "recorder")])


def _link(channel: Channel, page: str, **filters: str) -> str:
    """To a list of the admin; "" where there is none, or the channel was not told where it is."""
    if not channel.base_url:
        return ""
    try:
        path = reverse(f"admin:taskops_{page}_changelist")
    except Exception:  # noqa: BLE001 whatever the project's urls raise: the message matters more
        return ""
    query = urlencode({name: value for name, value in filters.items() if value})
    return f"{channel.base_url}{path}?{query}" if query else f"{channel.base_url}{path}"


def _message(subject: str, lines: list[str]) -> Message:
    """The subject on one line: a task may have any name."""
    return Message(subject=storable(" ".join(subject.split()), 200), text="\n".join(line for line in lines if line))
