"""The configured embedder, constructed. Heavy libraries are imported only by the kind that needs
them."""

from cdc_embed.config_sections import ChunkConfig, EmbedderConfig
from cdc_embed.embed.base import Embedder

UNTOKENIZED_WINDOW = 512
"""Tokens of a chunk when the service's tokenizer is not known: nearly every model takes them."""


def make_embedder(config: EmbedderConfig) -> Embedder:
    """An embedder of the configured kind; ``EmbedderError`` when it cannot be had."""
    if config.kind == "hash":
        from cdc_embed.embed.hash import HashEmbedder

        return HashEmbedder(dimensions=config.dimensions or 384)
    if config.kind == "http":
        return _http(config)
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


def _http(config: EmbedderConfig) -> Embedder:
    from pydantic import SecretStr

    from cdc_embed.embed.http import HttpEmbedder

    key = config.resolved_api_key()
    return HttpEmbedder(
        url=config.url,
        model=config.model,
        revision=config.revision,
        api_key=SecretStr(key) if key else None,
        dimensions=config.dimensions,
        document_prompt=config.document_prompt,
        query_prompt=config.query_prompt,
        tokenizer=config.tokenizer,
        window=None if config.tokenizer else UNTOKENIZED_WINDOW,
        timeout=config.timeout,
        concurrency=config.concurrency,
        requests_per_minute=config.requests_per_minute,
        tokens_per_minute=config.tokens_per_minute,
        max_batch=config.max_batch,
    )


def smallest_window(window: int | None, chunks: list[ChunkConfig]) -> int | None:
    """The tokens that every table's texts may have: the model's, or a smaller configured one."""
    limits = [limit for limit in (window, *(chunk.max_tokens for chunk in chunks)) if limit]
    return min(limits, default=None)
