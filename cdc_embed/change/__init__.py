"""The decisions, all pure: what changed, its effect on each document, what must be embedded."""
