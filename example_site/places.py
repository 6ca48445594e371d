"""Where the example site keeps its data and finds its supplier: from the environment, read live."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SUPPLIER_TIMEOUT_SECONDS = 1.0


def data() -> Path:
    return Path(os.environ.get("EXAMPLE_SITE_DATA") or CHECKOUT / "var" / "demo")


def inbox() -> Path:
    """Order files and product pictures, as they come in."""
    return data() / "inbox"


def mail() -> Path:
    """One file per mail that was sent."""
    return data() / "mail"


def media() -> Path:
    """Invoices and thumbnails."""
    return data() / "media"


def supplier_url() -> str:
    return os.environ.get("EXAMPLE_SITE_SUPPLIER_URL") or "http://127.0.0.1:8000/supplier/"
