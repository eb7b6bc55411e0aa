"""Rows that are read instead of the log: backfill, repair, verify, retry."""
