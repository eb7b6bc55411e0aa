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
        return _http(config, stored_dimensions)
    from cdc_embed.embed.sentence_transformers import SentenceTransformersEmbedder

    return SentenceTransformersEmbedder(
        model=config.model,
        revision=config.revision,
        backend=config.backend,
        device=config.device,
        dimensions=config.dimensions,
        document_prompt=config.document_prompt,
        query_prompt=config.query_prompt,
        max_batch=config.max_batch,
    )


def _http(config: EmbedderConfig, stored_dimensions: int) -> Embedder:
    from pydantic import SecretStr

    from cdc_embed.embed.http import HttpEmbedder

    key = config.resolved_api_key()
    return HttpEmbedder(
        url=config.url,
        model=config.model,
        revision=config.revision,
        api_key=SecretStr(key) if key else None,
        dimensions=config.dimensions,
        expected_dimensions=stored_dimensions,
        document_prompt=config.document_prompt,
        query_prompt=config.query_prompt,
        tokenizer=config.tokenizer,
        timeout=config.timeout,
        concurrency=config.concurrency,
        requests_per_minute=config.requests_per_minute,
        tokens_per_minute=config.tokens_per_minute,
        max_batch=config.max_batch,
    )
