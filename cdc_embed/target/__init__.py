"""The vector side: what is stored, and the one transaction that changes it."""
