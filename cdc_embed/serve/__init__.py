"""Answers of a running service to others, over HTTP. Nothing here changes state."""
