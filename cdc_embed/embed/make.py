"""The configured embedder, constructed.

Only the kinds that need heavy libraries import them.
"""

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.base import Embedder


def make_embedder(config: EmbedderConfig, *, stored_dimensions: int = 0) -> Embedder:
    """Return an embedder of the configured kind; raise ``EmbedderError`` when it cannot be made.

    ``stored_dimensions`` of the stored space, if known, save a call of the service.
    """
    if config.kind == "hash":
        from cdc_embed.embed.hash import HashEmbedder

        return HashEmbedder(dimensions=config.dimensions or 384)
    if config.kind == "http":
        from cdc_embed.embed.http import HttpEmbedder

        return HttpEmbedder(config, stored_dimensions=stored_dimensions)
    from cdc_embed.embed.sentence_transformers import SentenceTransformersEmbedder

    return SentenceTransformersEmbedder(config)
