"""The shop's pages for its staff: the orders of the day, their invoices, and the repair button."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.text import capfirst
from django.views.decorators.http import require_POST, require_safe

from example_site.shop import day
from example_site.shop.models import ImportProblem, Invoice, Order, Product, Report, SupplierFault


@require_safe
@login_required
@permission_required("shop.view_order", raise_exception=True)
def orders(request: HttpRequest) -> HttpResponse:
    context = {
        "orders": Order.objects.select_related("invoice"),
        "problems": ImportProblem.objects.all(),
        "faults": SupplierFault.objects.exclude(requests_left=0),
        "products": Product.objects.all(),
        "report": Report.objects.first(),
    }
    return render(request, "shop/orders.html", context)


@require_safe
@login_required
@permission_required("shop.view_invoice", raise_exception=True)
def invoice(_request: HttpRequest, number: str) -> HttpResponseBase:
    found = get_object_or_404(Invoice, order__number=number)
    return FileResponse(found.file.open(), filename=f"{number}.pdf")


@require_POST
@login_required
@permission_required("shop.delete_supplierfault", raise_exception=True)
def fix(request: HttpRequest) -> HttpResponse:
    for sentence in day.fix_causes() or ["nothing to mend"]:
        messages.success(request, f"{capfirst(sentence)}.")
    return redirect("orders")
