"""What is kept of a message is encrypted where the project names keys, and never in the clear by mistake."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pytest_django import Settings

from django_taskops.capture.envelope import Envelope
from django_taskops.capture.sealing import SEALED, Undecryptable
from django_taskops.exceptions import EnvelopeError, NotRequeueable
from django_taskops.models import DeadLetter, RunEnvelope
from django_taskops.recovery import requeue
from tests import tasks
from tests.capture.test_envelope import envelope
from tests.recovery.test_requeue import letter_of
from tests.workers import BrokerQueue

UseKeys = Callable[..., None]


@pytest.fixture
def use_keys(settings: Settings) -> UseKeys:
    def use(*keys: str) -> None:
        settings.TASKOPS = {**settings.TASKOPS, "PAYLOAD_KEYS": list(keys)}

    return use


def new_key() -> str:
    return Fernet.generate_key().decode()


def test_the_first_key_encrypts_and_each_decrypts(use_keys: UseKeys) -> None:
    old, new = new_key(), new_key()
    use_keys(old)
    before = envelope().to_bytes()
    use_keys(new, old)
    after = envelope().to_bytes()

    assert before.startswith(SEALED)
    assert b"tests" not in before
    assert Envelope.from_bytes(before) == Envelope.from_bytes(after) == envelope()
    use_keys(old)
    with pytest.raises(Undecryptable, match="none of the 1 keys"):
        Envelope.from_bytes(after)
    use_keys()
    with pytest.raises(Undecryptable, match="PAYLOAD_KEYS is empty here"):
        Envelope.from_bytes(after)


def test_what_was_kept_in_the_clear_is_read_as_before(use_keys: UseKeys) -> None:
    clear = envelope().to_bytes()
    use_keys(new_key())

    assert Envelope.from_bytes(clear) == envelope()


def test_what_can_not_be_encrypted_is_not_kept(use_keys: UseKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    use_keys("no key")
    with pytest.raises(EnvelopeError, match="expected Fernet keys"):
        envelope().to_bytes()

    use_keys(new_key())
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(EnvelopeError, match=r"install django-taskops\[encryption\]"):
        envelope().to_bytes()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_a_letter_is_sent_again_with_its_key_and_refused_without(
    database: str, queue: BrokerQueue, use_keys: UseKeys
) -> None:
    key = new_key()
    use_keys(key)
    letter = letter_of(queue, lambda: tasks.fail.delay("out of stock"))
    assert bytes(letter.envelope or b"").startswith(SEALED)

    use_keys(new_key())
    with pytest.raises(NotRequeueable) as refusal:
        requeue(letter)
    assert refusal.value.code == "undecryptable"

    use_keys(key)
    assert requeue(letter, args=["in stock"]).outcome == "sent"
    kept: Any = RunEnvelope.objects.get().envelope
    assert bytes(kept).startswith(SEALED)
    assert DeadLetter.objects.get().status == "requeued"
