"""A small shop: it imports orders, prices them, writes invoices and mails them."""
