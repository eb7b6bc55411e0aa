"""The decoders: bytes to messages. No I/O, no decisions, no state but a cursor in a frame."""
