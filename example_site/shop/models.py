"""What the shop stores. Nothing here knows how its tasks are tracked."""

from django.core.files.storage import FileSystemStorage
from django.db import models

storage = FileSystemStorage(allow_overwrite=True)


class Product(models.Model):
    sku = models.CharField(max_length=20, unique=True)
    name = models.CharField(max_length=100)
    picture = models.CharField(max_length=100, blank=True, help_text="File in the inbox.")
    thumbnail = models.FileField(storage=storage, upload_to="thumbnails", blank=True)

    class Meta:
        ordering = ["sku"]

    def __str__(self) -> str:
        return f"{self.sku} {self.name}"


class Order(models.Model):
    number = models.CharField(max_length=20, unique=True)
    buyer = models.CharField(max_length=100)
    email = models.EmailField()
    total = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    last_step_id = models.CharField(
        max_length=255, blank=True, help_text="Task id of the last step of the order's chain."
    )

    class Meta:
        ordering = ["number"]

    def __str__(self) -> str:
        return self.number


class OrderLine(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="lines")
    quantity = models.PositiveIntegerField()
    unit_price = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product}"


class Invoice(models.Model):
    order = models.OneToOneField(Order, on_delete=models.CASCADE, related_name="invoice")
    file = models.FileField(storage=storage, upload_to="invoices")
    issued_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["order__number"]

    def __str__(self) -> str:
        return f"Invoice of {self.order}"


class ImportProblem(models.Model):
    file = models.CharField(max_length=100)
    line = models.PositiveIntegerField()
    text = models.CharField(max_length=200)

    class Meta:
        ordering = ["file", "line"]
        constraints = [models.UniqueConstraint(fields=["file", "line"], name="shop_one_problem_per_line")]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class Report(models.Model):
    written_at = models.DateTimeField(auto_now_add=True)
    invoices = models.PositiveIntegerField()
    total = models.DecimalField(max_digits=12, decimal_places=2)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.written_at:%H:%M:%S}: {self.invoices} invoices, {self.total}"


class SupplierFault(models.Model):
    """The supplier answers badly when asked for this product. Delete it: the supplier is well."""

    class Kind(models.TextChoices):
        SLOW = "slow", "answers too late"
        UNAVAILABLE = "unavailable", "answers 503"
        GARBLED = "garbled", "answers with broken JSON"

    sku = models.CharField(max_length=20, unique=True)
    kind = models.CharField(max_length=20, choices=Kind)
    requests_left = models.PositiveIntegerField(
        null=True, blank=True, help_text="How many more requests fail; empty: all of them."
    )

    class Meta:
        ordering = ["sku"]

    def __str__(self) -> str:
        return f"{self.sku}: {self.get_kind_display()}"
