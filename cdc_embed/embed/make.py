"""The configured embedder, constructed.

Only the kinds that need heavy libraries import them.
"""

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.base import NOTHING_KNOWN, Embedder, KnownFacts


def make_embedder(config: EmbedderConfig, known: KnownFacts = NOTHING_KNOWN) -> Embedder:
    """Return an embedder of the configured kind; raise ``EmbedderError`` when it cannot be made.

    ``known`` of the stored vectors saves questions to the service.
    """
    if config.kind == "hash":
        from cdc_embed.embed.hash import HashEmbedder

        return HashEmbedder(dimensions=config.dimensions or 384, window=config.window or None)
    if config.kind == "http":
        from cdc_embed.embed.http import HttpEmbedder

        return HttpEmbedder(config, known)
    from cdc_embed.embed.sentence_transformers import SentenceTransformersEmbedder

    return SentenceTransformersEmbedder(config)
