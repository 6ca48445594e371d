"""The shop's tasks. Those that may safely run twice have a retry policy, the others have none."""

from decimal import Decimal
from typing import Any

from celery import chain, chord, current_task, shared_task
from django.core.files.base import ContentFile
from django.core.mail import EmailMessage
from django.db import OperationalError, transaction
from django.db.models import F, Sum
from django.utils import timezone

from django_taskops import set_progress, tracked_task
from example_site import places
from example_site.shop import documents, order_files
from example_site.shop.models import ImportProblem, Invoice, Order, OrderLine, Product, Report
from example_site.shop.order_files import MalformedOrder, ParsedOrder, Row
from example_site.shop.pricing import SupplierError, fetch_price


class UnknownProduct(Exception):
    """An order names a product that the catalogue does not have (yet)."""


@shared_task(name="shop.read_order_file")
def read_order_file(name: str) -> int:
    """Start one chain per order; the number of orders. Not retried: it would start them again."""
    with (places.inbox() / "orders" / name).open(newline="", encoding="utf-8") as lines:
        content = order_files.read_order_file(lines)
    for problem in content.problems:
        _report_problem(name, problem)
    for done, (number, rows) in enumerate(content.orders.items(), start=1):
        steps = (import_order.s(number, rows, name), price_order.s(), write_invoice.s(), mail_confirmation.s())
        chain(*steps).apply_async()
        set_progress(done, len(content.orders), message=number)
    return len(content.orders)


def _report_problem(file: str, problem: order_files.Problem) -> None:
    ImportProblem.objects.update_or_create(file=file, line=problem.line, defaults={"text": problem.text})


@tracked_task(
    name="shop.import_order",
    autoretry_for=(OperationalError,),
    dont_autoretry_for=(MalformedOrder, UnknownProduct),
    max_retries=3,
    retry_backoff=1,
    idempotent=True,
)
def import_order(number: str, rows: list[Row], file: str) -> str:
    try:
        parsed = order_files.parse_order(number, rows)
    except MalformedOrder as error:
        for problem in error.problems:
            _report_problem(file, problem)
        raise
    _store_order(parsed)
    return number


@transaction.atomic
def _store_order(parsed: ParsedOrder) -> None:
    products = Product.objects.in_bulk([item.sku for item in parsed.items], field_name="sku")
    for item in parsed.items:
        if item.sku not in products:
            raise UnknownProduct(f"order {parsed.number}: no product {item.sku}")
    order, _ = Order.objects.update_or_create(
        number=parsed.number,
        defaults={
            "buyer": parsed.buyer,
            "email": parsed.email,
            "last_step_id": _last_step_id(),
        },
    )
    order.lines.all().delete()
    OrderLine.objects.bulk_create(
        OrderLine(order=order, product=products[item.sku], quantity=item.quantity) for item in parsed.items
    )


def _last_step_id() -> str:
    # Celery keeps the steps to come in reverse, each with the id it will run under.
    steps: Any = current_task.request.chain
    return str(steps[0]["options"]["task_id"]) if steps else ""


@tracked_task(
    name="shop.price_order",
    autoretry_for=(SupplierError,),
    max_retries=3,
    retry_backoff=1,
    retry_backoff_max=4,
    idempotent=True,
)
def price_order(number: str) -> str:
    order = Order.objects.get(number=number)
    lines = list(order.lines.select_related("product"))
    for line in lines:
        line.unit_price = fetch_price(line.product.sku)
    with transaction.atomic():
        OrderLine.objects.bulk_update(lines, ["unit_price"])
        order.total = _total(order)
        order.save(update_fields=["total"])
    return number


def _total(order: Order) -> Decimal:
    total: Decimal = order.lines.aggregate(total=Sum(F("quantity") * F("unit_price")))["total"]
    return total


@tracked_task(
    name="shop.write_invoice",
    autoretry_for=(OSError,),
    max_retries=2,
    retry_backoff=1,
    idempotent=True,
)
def write_invoice(number: str) -> str:
    order = Order.objects.get(number=number)
    invoice, _ = Invoice.objects.get_or_create(order=order)
    invoice.file.save(f"{number}.pdf", ContentFile(documents.invoice_pdf(order)))
    return number


@shared_task(name="shop.mail_confirmation")
def mail_confirmation(number: str) -> str:
    """Not retried: a mail that left cannot be taken back, and buyers should get one."""
    order = Order.objects.select_related("invoice").get(number=number)
    message = EmailMessage(
        subject=f"Order {number} is on its way",
        body=f"Dear {order.buyer},\n\nyour order {number} comes to {order.total} EUR.\n",
        to=[order.email],
    )
    with order.invoice.file.open() as pdf:
        message.attach(f"{number}.pdf", pdf.read(), "application/pdf")
    message.send()
    order.confirmed_at = timezone.now()
    order.save(update_fields=["confirmed_at"])
    return number


@shared_task(name="shop.resize_picture")
def resize_picture(sku: str) -> str:
    """Not retried: a damaged file stays damaged until somebody replaces it."""
    product = Product.objects.get(sku=sku)
    small = documents.thumbnail(places.inbox() / "pictures" / product.picture)
    product.thumbnail.save(f"{sku}.jpg", ContentFile(small))
    return product.thumbnail.name or ""


@shared_task(name="shop.nightly_report")
def nightly_report() -> int:
    """Add up all invoices, one task each, and write the report when the last has answered."""
    numbers = list(Invoice.objects.values_list("order__number", flat=True))
    if numbers:
        chord([invoiced_total.s(number) for number in numbers], write_report.s()).apply_async()
    return len(numbers)


@shared_task(name="shop.invoiced_total")
def invoiced_total(number: str) -> str:
    return str(Order.objects.get(number=number).total)


@shared_task(name="shop.write_report")
def write_report(totals: list[str]) -> int:
    report = Report.objects.create(invoices=len(totals), total=sum(map(Decimal, totals)))
    return report.pk
