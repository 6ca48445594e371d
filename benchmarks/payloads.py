"""What the no-op task is called with: 100 bytes of text, or keyword arguments that are 2 KiB of nested JSON."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class Payload(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _order(size: int) -> dict[str, Any]:
    """An order with nine lines; its note is as long as it takes to reach `size` bytes of JSON."""
    lines = [
        {
            "sku": f"SKU-{number:05}",
            "title": f"Enamel mug, motif {number}",
            "quantity": number,
            "price": {"amount": "19.90", "currency": "EUR"},
            "options": {"colour": "blue", "gift": False, "sizes": [number, number + 1]},
        }
        for number in range(1, 10)
    ]
    address = {"street": "Long Street 17", "city": "Anytown", "country": "FR", "postcode": "75001"}
    order = {"order": {"id": 4711, "address": address, "lines": lines, "paid": True}, "note": ""}
    return order | {"note": "n" * (size - len(json.dumps(order)))}


PAYLOADS: Mapping[str, Payload] = {
    "100B": Payload(("x" * 100,), {}),
    "2KiB": Payload((), _order(2048)),
}
assert len(json.dumps(PAYLOADS["2KiB"].kwargs)) == 2048
