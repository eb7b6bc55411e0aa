"""The target database: what is stored, and the one transaction that changes it."""
