"""The sample day has what the demo is there to show."""

import csv
import json
from io import BytesIO

import pytest
from PIL import Image

from example_site.shop import documents
from example_site.shop.order_files import MalformedOrder, parse_order, read_order_file
from example_site.shop.samples import SAMPLES

LARGEST_BYTES = 300 * 1024


def column(file: str, name: str) -> set[str]:
    with (SAMPLES / file).open(newline="") as lines:
        return {row[name] for row in csv.DictReader(lines)}


def test_some_orders_are_malformed_and_most_are_not() -> None:
    good, bad = [], []
    for path in (SAMPLES / "orders").glob("*.csv"):
        for number, rows in read_order_file(path.read_text().splitlines()).orders.items():
            try:
                good.append(parse_order(number, rows))
            except MalformedOrder as error:
                bad.append(error)
    ordered = {item.sku for order in good for item in order.items}
    catalogue = column("products.csv", "sku")
    assert len(good) > len(bad) > 1
    assert ordered - catalogue == column("late_products.csv", "sku")
    assert column("supplier_faults.csv", "sku") <= ordered & catalogue


def test_the_supplier_has_a_price_for_every_product() -> None:
    prices = json.loads((SAMPLES / "prices.json").read_text())
    assert prices.keys() == column("products.csv", "sku") | column("late_products.csv", "sku")


def test_a_good_picture_becomes_a_small_jpeg() -> None:
    small = Image.open(BytesIO(documents.thumbnail(SAMPLES / "pictures" / "mug.jpg")))
    assert small.format == "JPEG"
    assert max(small.size) == max(documents.THUMBNAIL_SIZE)


def test_exactly_the_pictures_with_a_repaired_copy_are_damaged() -> None:
    pictures = sorted((SAMPLES / "pictures").iterdir())
    damaged = {path.name for path in pictures if not _readable(path.read_bytes())}
    repaired = {path.name for path in (SAMPLES / "repaired").iterdir() if _readable(path.read_bytes())}
    assert {path.name for path in pictures} == column("products.csv", "picture")
    assert damaged == repaired != set()


def _readable(content: bytes) -> bool:
    try:
        Image.open(BytesIO(content)).load()
    except OSError:
        return False
    return True


def test_a_truncated_picture_is_refused() -> None:
    with pytest.raises(OSError, match="truncated"):
        documents.thumbnail(SAMPLES / "pictures" / "plant.jpg")


def test_the_samples_are_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.suffix != ".pyc") < LARGEST_BYTES
