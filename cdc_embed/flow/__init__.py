"""A change's way through the service: the loop and its workers."""
