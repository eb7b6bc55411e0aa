"""Keep pgvector embeddings fresh from PostgreSQL's own change log.

The rooms, their order and where a line of code belongs: CONTRIBUTING.md. Nothing is imported
here, so that no command pays for a library it does not use.
"""

__version__ = "0.1.0"
