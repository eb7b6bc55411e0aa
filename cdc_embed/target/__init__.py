"""The target database, with the stored vectors, and the one transaction that changes them."""
