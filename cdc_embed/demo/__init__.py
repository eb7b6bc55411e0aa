"""The embedded try-out: a database, a corpus and a script that behaves like an application."""
