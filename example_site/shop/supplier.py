"""The supplier's price service: another company's, played by this site, as unreliable as it is.

Nothing of it is known to the shop but its HTTP answers. `SupplierFault` rows make it fail.
"""

import json
import time
from functools import cache

from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views.decorators.http import require_safe

from example_site import places
from example_site.shop.models import SupplierFault
from example_site.shop.samples import SAMPLES


@require_safe
def alive(_request: HttpRequest) -> HttpResponseBase:
    return HttpResponse("The supplier is open.\n", content_type="text/plain")


@require_safe
def price(_request: HttpRequest, sku: str) -> HttpResponseBase:
    fault = _fault(sku)
    if fault == SupplierFault.Kind.UNAVAILABLE:
        return HttpResponse("Come back later.\n", status=503, headers={"Retry-After": "1"})
    if fault == SupplierFault.Kind.GARBLED:
        return HttpResponse(f'{{"sku": "{sku[:3]}', content_type="application/json")
    if fault == SupplierFault.Kind.SLOW:
        time.sleep(2 * places.SUPPLIER_TIMEOUT_SECONDS)
    return _price(sku)


def _fault(sku: str) -> str | None:
    with transaction.atomic():
        fault = SupplierFault.objects.select_for_update().filter(sku=sku).first()
        if fault is None or fault.requests_left == 0:
            return None
        if fault.requests_left is not None:
            fault.requests_left -= 1
            fault.save(update_fields=["requests_left"])
        return fault.kind


def _price(sku: str) -> HttpResponseBase:
    known = _price_list().get(sku)
    if known is None:
        return JsonResponse({"error": "unknown product"}, status=404)
    return JsonResponse({"sku": sku, "price": known})


@cache
def _price_list() -> dict[str, str]:
    prices: dict[str, str] = json.loads((SAMPLES / "prices.json").read_text())
    return prices
