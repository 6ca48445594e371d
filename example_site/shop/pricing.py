"""Asks the supplier for prices over HTTP, and says what went wrong when it does not answer."""

import json
from decimal import Decimal, InvalidOperation
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin
from urllib.request import ProxyHandler, build_opener

from example_site import places

# The supplier is on this machine: a proxy of the environment could not reach it.
_opener = build_opener(ProxyHandler({}))


class SupplierError(Exception):
    """The supplier gave no price; the next try may go better."""


class SupplierTimeout(SupplierError):
    """The supplier did not answer in time."""


class SupplierUnavailable(SupplierError):
    """The supplier could not be reached, or said that it cannot answer."""


class SupplierNonsense(SupplierError):
    """The supplier's answer cannot be read."""


def fetch_price(sku: str) -> Decimal:
    """Raises a SupplierError."""
    return _read_price(sku, _get(f"prices/{quote(sku, safe='')}/"))


def _get(path: str) -> bytes:
    url = urljoin(places.supplier_url(), path)
    try:
        with _opener.open(url, timeout=places.SUPPLIER_TIMEOUT_SECONDS) as answer:
            body: bytes = answer.read()
            return body
    except HTTPError as error:
        with error:
            raise SupplierUnavailable(f"{path}: HTTP {error.code} {error.reason}") from error
    except TimeoutError as error:
        limit = places.SUPPLIER_TIMEOUT_SECONDS
        raise SupplierTimeout(f"{path}: no answer within {limit:g} s") from error
    except (URLError, HTTPException, OSError) as error:
        raise SupplierUnavailable(f"{path}: {error}") from error


def _read_price(sku: str, body: bytes) -> Decimal:
    try:
        return Decimal(json.loads(body)["price"])
    except (ValueError, KeyError, TypeError, InvalidOperation) as error:
        raise SupplierNonsense(f"{sku}: {body[:40]!r} is no price: {error!r}") from error
