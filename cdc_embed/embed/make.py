"""The configured embedder, constructed. Heavy libraries are imported only by the kind that needs
them."""

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.base import Embedder


def make_embedder(config: EmbedderConfig, *, stored_dimensions: int = 0) -> Embedder:
    """An embedder of the configured kind; ``EmbedderError`` when it cannot be had.

    ``stored_dimensions`` of the stored space, when known, save a service the question.
    """
    if config.kind == "hash":
        from cdc_embed.embed.hash import HashEmbedder

        return HashEmbedder(dimensions=config.dimensions or 384)
    if config.kind == "http":
        from cdc_embed.embed.http import HttpEmbedder

        return HttpEmbedder(config, stored_dimensions=stored_dimensions)
    from cdc_embed.embed.sentence_transformers import SentenceTransformersEmbedder

    return SentenceTransformersEmbedder(config)
