"""The shop in the admin."""

from typing import TYPE_CHECKING

from django.contrib import admin

from example_site.shop.models import (
    ImportProblem,
    Invoice,
    Order,
    OrderLine,
    Product,
    Report,
    SupplierFault,
)

# The stubs know these classes as generic, Django does not at run time.
if TYPE_CHECKING:
    OrderLineInlineBase = admin.TabularInline[OrderLine, Order]
    ImportProblemAdminBase = admin.ModelAdmin[ImportProblem]
    InvoiceAdminBase = admin.ModelAdmin[Invoice]
    OrderAdminBase = admin.ModelAdmin[Order]
    ProductAdminBase = admin.ModelAdmin[Product]
    ReportAdminBase = admin.ModelAdmin[Report]
    SupplierFaultAdminBase = admin.ModelAdmin[SupplierFault]
else:
    OrderLineInlineBase = admin.TabularInline
    ImportProblemAdminBase = InvoiceAdminBase = OrderAdminBase = admin.ModelAdmin
    ProductAdminBase = ReportAdminBase = SupplierFaultAdminBase = admin.ModelAdmin


class OrderLineInline(OrderLineInlineBase):
    model = OrderLine
    extra = 0


@admin.register(Order)
class OrderAdmin(OrderAdminBase):
    list_display = ["number", "buyer", "total", "confirmed_at"]
    search_fields = ["number", "buyer", "email"]
    inlines = [OrderLineInline]


@admin.register(Product)
class ProductAdmin(ProductAdminBase):
    list_display = ["sku", "name", "picture", "thumbnail"]
    search_fields = ["sku", "name"]


@admin.register(Invoice)
class InvoiceAdmin(InvoiceAdminBase):
    list_display = ["order", "issued_at"]


@admin.register(ImportProblem)
class ImportProblemAdmin(ImportProblemAdminBase):
    list_display = ["file", "line", "text"]
    list_filter = ["file"]


@admin.register(Report)
class ReportAdmin(ReportAdminBase):
    list_display = ["written_at", "invoices", "total"]


@admin.register(SupplierFault)
class SupplierFaultAdmin(SupplierFaultAdminBase):
    list_display = ["sku", "kind", "requests_left"]
    list_filter = ["kind"]
