"""The shop's pages, its supplier's service, the admin with the desk, and the status JSON."""

from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.urls import include, path

from example_site import places
from example_site.shop import supplier, views

urlpatterns = [
    path("", views.orders, name="orders"),
    path("invoices/<str:number>/", views.invoice, name="invoice"),
    path("fix/", views.fix, name="fix"),
    path("supplier/", supplier.alive, name="supplier"),
    path("supplier/prices/<str:sku>/", supplier.price, name="supplier-price"),
    path("taskops/", include("django_taskops.urls")),
    path("admin/", admin.site.urls),
    *static(settings.MEDIA_URL + "thumbnails/", document_root=places.media() / "thumbnails"),
]
