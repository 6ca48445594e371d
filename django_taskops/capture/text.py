"""Any text as a column can hold it: what no database stores is escaped, what is too long is cut, both visibly."""

from hashlib import sha256

COLUMN = 255
_DIGEST = 32


def storable(value: object, limit: int = COLUMN) -> str:
    """`value` as text of at most `limit` characters; "" for None. NUL and lone surrogates become backslash escapes."""
    if value is None:
        return ""
    text = _encodable(str(value))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def storable_id(task_id: str) -> str:
    """A task id as the tables hold it: as it is up to 255 characters, else cut and told apart by a digest."""
    text = _encodable(str(task_id))
    if len(text) <= COLUMN:
        return text
    digest = sha256(text.encode()).hexdigest()[:_DIGEST]
    return f"{text[: COLUMN - _DIGEST - 1]}…{digest}"


def _encodable(text: str) -> str:
    if "\x00" in text:
        text = text.replace("\x00", "\\x00")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
