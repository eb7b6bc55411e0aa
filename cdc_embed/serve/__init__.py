"""What others may ask of a running service, over HTTP. Nothing here changes state."""
