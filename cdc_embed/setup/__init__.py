"""Setup, teardown, and the preconditions of a service."""
