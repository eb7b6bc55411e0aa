"""Decisions: what changed, what it means for each document, what must be embedded. Pure."""
