"""Keep pgvector embeddings fresh from PostgreSQL's own change log.

The packages are the stages of one flow, in the order of the data's way:
``wire`` (bytes to messages), ``change`` (decisions), ``source``, ``embed`` and ``target``
(the outside systems), ``flow`` (when things run), ``serve``, ``demo`` and ``cli``.
Imports point backwards along that list, never forwards.
"""

__version__ = "0.1.0"
