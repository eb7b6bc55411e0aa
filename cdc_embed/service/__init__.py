"""One running service: built, started, watched."""
