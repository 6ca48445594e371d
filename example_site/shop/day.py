"""Begins the shop's sample day, starts its work, and mends what the samples broke."""

import csv
import shutil
from pathlib import Path

from celery import group
from django.db import transaction

from example_site import places
from example_site.shop import tasks
from example_site.shop.models import ImportProblem, Order, Product, Report, SupplierFault
from example_site.shop.samples import SAMPLES


@transaction.atomic
def begin() -> None:
    """Empty the shop's own tables and inbox, and fill them with the samples."""
    for rows in (Order.objects, ImportProblem.objects, Report.objects, SupplierFault.objects, Product.objects):
        rows.all().delete()
    _add_products(SAMPLES / "products.csv")
    with (SAMPLES / "supplier_faults.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            left = int(row["requests_left"]) if row["requests_left"] else None
            SupplierFault.objects.create(sku=row["sku"], kind=row["kind"], requests_left=left)
    for folder in ("orders", "pictures"):
        shutil.copytree(SAMPLES / folder, places.inbox() / folder, dirs_exist_ok=True)


def _add_products(path: Path) -> list[str]:
    """The skus that the catalogue did not have."""
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return [row["sku"] for row in rows if Product.objects.get_or_create(sku=row["sku"], defaults=row)[1]]


def start_work() -> None:
    """Publish the day's tasks: a group over the pictures, then the order files."""
    skus = Product.objects.exclude(picture="").values_list("sku", flat=True)
    group(tasks.resize_picture.s(sku) for sku in skus).apply_async()
    for path in sorted((places.inbox() / "orders").glob("*.csv")):
        tasks.read_order_file.delay(path.name)


def fix_causes() -> list[str]:
    """Mend what can be mended; a sentence for each thing done."""
    return [*_mend_supplier(), *_replace_pictures(), *_complete_catalogue()]


def _mend_supplier() -> list[str]:
    broken = SupplierFault.objects.exclude(requests_left=0).values_list("sku", flat=True)
    names = ", ".join(broken)
    SupplierFault.objects.all().delete()
    return [f"the supplier is back up (it failed for {names})"] if names else []


def _replace_pictures() -> list[str]:
    done = []
    for good in sorted((SAMPLES / "repaired").iterdir()):
        target = places.inbox() / "pictures" / good.name
        if target.read_bytes() != good.read_bytes():
            shutil.copyfile(good, target)
            done.append(f"the truncated picture {good.name} is replaced by a good copy")
    return done


def _complete_catalogue() -> list[str]:
    added = _add_products(SAMPLES / "late_products.csv")
    return [f"the catalogue has {', '.join(added)} now"] if added else []
