"""Encrypts what is kept of a message, where `PAYLOAD_KEYS` names keys: the first encrypts, any of them decrypts."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..conf import conf
from ..exceptions import EnvelopeError

SEALED = b"fernet:"
MISSING = "PAYLOAD_KEYS need the package cryptography: install django-taskops[encryption]"


class Undecryptable(EnvelopeError):
    """None of `PAYLOAD_KEYS` opens it."""


def seal(blob: bytes) -> bytes:
    """`blob` as it is where there are no keys. Raises EnvelopeError where it can't be encrypted: it is never kept
    in the clear then."""
    if not conf.PAYLOAD_KEYS:
        return blob
    return SEALED + bytes(_fernet(tuple(conf.PAYLOAD_KEYS)).encrypt(blob))


def unseal(blob: bytes) -> bytes:
    """`blob` as it is where it was kept in the clear. Raises Undecryptable."""
    if not blob.startswith(SEALED):
        return blob
    if not conf.PAYLOAD_KEYS:
        raise Undecryptable("it is encrypted, and PAYLOAD_KEYS is empty here: name the key that it was kept with")
    fernet = _fernet(tuple(conf.PAYLOAD_KEYS))
    from cryptography.fernet import InvalidToken

    try:
        return bytes(fernet.decrypt(blob.removeprefix(SEALED)))
    except InvalidToken as error:
        raise Undecryptable(
            f"none of the {len(conf.PAYLOAD_KEYS)} keys of PAYLOAD_KEYS opens it: name the one that it was kept with"
        ) from error


@lru_cache(maxsize=4)
def _fernet(keys: Sequence[str]) -> Any:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise EnvelopeError(MISSING) from error
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError as error:
        raise EnvelopeError("PAYLOAD_KEYS: expected Fernet keys, 32 bytes in base64 each") from error
