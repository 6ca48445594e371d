"""Turns orders into PDF invoices and pictures into thumbnails."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from django.utils import timezone
from fpdf import FPDF
from PIL import Image

if TYPE_CHECKING:
    from example_site.shop.models import Order

THUMBNAIL_SIZE = (240, 240)
COLUMN_WIDTHS = (95, 25, 35, 35)


def invoice_pdf(order: "Order") -> bytes:
    """The order must be priced."""
    pdf = FPDF()
    pdf.add_page()
    _heading(pdf, order)
    pdf.set_font("Helvetica", size=11)
    with pdf.table(col_widths=COLUMN_WIDTHS, text_align=("LEFT", "RIGHT", "RIGHT", "RIGHT")) as table:
        table.row(["Product", "Quantity", "Price", "Sum"])
        for line in order.lines.select_related("product"):
            price = line.unit_price or 0
            name = _latin(line.product.name)
            table.row([name, str(line.quantity), f"{price:.2f}", f"{price * line.quantity:.2f}"])
        table.row(["Total", "", "", f"{order.total:.2f} EUR"])
    return bytes(pdf.output())


def _heading(pdf: FPDF, order: "Order") -> None:
    pdf.set_font("Helvetica", style="B", size=18)
    pdf.cell(text=f"Invoice {order.number}", new_x="LMARGIN", new_y="NEXT")
    pdf.set_font("Helvetica", size=11)
    pdf.cell(text=_latin(order.buyer), new_x="LMARGIN", new_y="NEXT")
    pdf.cell(text=f"{timezone.now():%d %B %Y}", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(8)


def _latin(text: str) -> str:
    # The fonts that every PDF reader has know no other characters.
    return text.encode("latin-1", "replace").decode("latin-1")


def thumbnail(picture: Path) -> bytes:
    """A JPEG no larger than THUMBNAIL_SIZE; raises OSError for a damaged file."""
    target = BytesIO()
    with Image.open(picture) as image:
        image.thumbnail(THUMBNAIL_SIZE)
        image.convert("RGB").save(target, "JPEG", quality=85)
    return target.getvalue()
