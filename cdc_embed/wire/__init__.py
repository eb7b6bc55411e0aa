"""Bytes to messages, and nothing else: no I/O, no decisions, no state but a cursor in a frame."""
