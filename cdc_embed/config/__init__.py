"""The configuration file: loading, one model per concern, its notation."""
