"""The ways to people: mail to ADMINS, and webhooks."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from django.conf import settings
from django.core import mail

from ..exceptions import TaskOpsError

WEBHOOK_TIMEOUT_SECONDS = 5


class AlertNotSent(TaskOpsError):
    """A message could not be delivered; the outbox tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A way to people. `url` is "" for the mail, `base_url` "" for messages without links."""

    name: str
    window: float
    details: bool
    base_url: str
    url: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    subject: str
    text: str


def deliver(channel: Channel, message: Message) -> None:
    """Raises AlertNotSent, and what Django's mail raises."""
    if channel.url:
        _post(channel, message)
    elif settings.ADMINS:
        mail.mail_admins(message.subject, message.text)
    else:
        raise AlertNotSent("expected somebody in ADMINS, got nobody; name whom to mail, or do not switch the mail on")


def _post(channel: Channel, message: Message) -> None:
    """Raises outside of `except`: what urllib raises may quote the address."""
    body = json.dumps({"text": _escaped(message.text)}).encode()
    headers = {"Content-Type": "application/json; charset=utf-8"}
    error = ""
    try:
        request = Request(channel.url, data=body, headers=headers)  # noqa: S310 the scheme was checked
        with build_opener(_NoRedirects).open(request, timeout=WEBHOOK_TIMEOUT_SECONDS):
            pass
    except HTTPError as answer:
        answer.close()
        error = f"HTTP {answer.code}"
    except Exception as failure:  # noqa: BLE001 of the network, of TLS, of a proxy
        error = type(getattr(failure, "reason", failure)).__name__
    if error:
        raise AlertNotSent(f"expected {channel.name!r} to take the message, got {error}; its address is not shown")


def _escaped(text: str) -> str:
    """As Slack asks for: else an exception's text could call everybody in the room."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _NoRedirects(HTTPRedirectHandler):
    """urllib would turn the POST into a GET, and the address may be a secret from where it leads."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None
