"""The comparison of the stored spaces with the model that answers now, to see if it made the
vectors.

The name of a model proves nothing, because a service can have another one behind the same name, and
the same one behind another. What proves it are vectors of equal texts. This is decided before
anything is written, by ``setup`` and each start of ``run``; ``doctor`` only says it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from cdc_embed.embed.base import CHARACTERS_PER_TOKEN, Embedder, ModelCard, Vectors
from cdc_embed.embed.trial import EQUAL_COSINE, cosine, embed_in_parts
from cdc_embed.errors import SpaceMismatchError, TextRefusedError
from cdc_embed.postgres.ddl import Ddl
from cdc_embed.setup.connections import Connections
from cdc_embed.setup.locks import run_without_queueing
from cdc_embed.source.slot import expect_idle
from cdc_embed.target.registry import stored_size
from cdc_embed.target.spaces import (
    Canary,
    StoredSpace,
    draw_vectors,
    has_canaries,
    has_model,
    has_vectors,
    keep_canary,
    rename_ddl,
    replace_canary_ddl,
    retire_ddl,
    slot_spaces,
)

HTTP: Final = "http:"
"""The beginning of the name of a service's model."""
DRAWN: Final = 50
"""The stored vectors that must be equal before another name is taken for the same model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The statements that make the stored spaces those of the model that answers now."""

    ddl: list[Ddl]
    former: str = ""
    """The name in the stored spaces of the model that is called otherwise now."""

    def carry_out(self, databases: Connections) -> Iterator[str]:
        """Run the statements; yield what each has done."""
        for ddl in self.ddl:
            run_without_queueing(databases.target, ddl.why, [ddl.text(databases.target)])
            yield ddl.why


def settle_spaces(
    databases: Connections, embedder: Embedder, card: ModelCard, *, rebuild: bool = False
) -> Settlement:
    """Compare the canary with those of the stored spaces; raise if another model made the vectors.

    With ``rebuild`` such a space gets another name, so that its vectors are those of another model.
    """
    schema, config = databases.config.target.schema, databases.config
    if card.canary is None or not has_canaries(databases.target, schema):
        return Settlement(ddl=[])
    stored = slot_spaces(databases.target, schema, config.source.slot)
    names = {entry.full_name for entry in config.tables}
    spaces = [s for s in stored if s.table_name in names and _is_of_form(s, card)]
    ddl = _replace_others(databases, spaces, card, rebuild=rebuild)
    aliases = [s for s in spaces if _is_called_otherwise(s, card) and _is_same(s, card)]
    former = [space for space in aliases if space.model == aliases[0].model]
    if not former or any(space.shared for space in former):
        return Settlement(ddl=ddl)
    if has_model(databases.target, schema, card.identity):
        return Settlement(ddl=ddl)
    if not _gives_stored_vectors(databases, embedder, card, former):
        return Settlement(ddl=ddl)
    ddl.append(rename_ddl(schema, config.source.slot, former[0], card.identity))
    return Settlement(ddl=ddl, former=former[0].model)


def keep_canaries(databases: Connections, card: ModelCard) -> None:
    """Store the canary with the spaces of this model that have none yet."""
    schema, slot = databases.config.target.schema, databases.config.source.slot
    spaces = slot_spaces(databases.target, schema, slot)
    lacking = any(s.canary is None and s.model == card.identity for s in spaces)
    if lacking and card.canary is not None:
        keep_canary(databases.target, schema, slot, _canary(card, card.canary))


def with_stored_canary(databases: Connections, embedder: Embedder) -> ModelCard | None:
    """Return the card of an embedder that is away, with the canary of its stored vectors; None if
    there is none."""
    schema, slot = databases.config.target.schema, databases.config.source.slot
    if not has_canaries(databases.target, schema):
        return None
    spaces = [s for s in slot_spaces(databases.target, schema, slot) if s.canary is not None]
    if not spaces:
        return None
    card = embedder.describe()
    mine = [s for s in spaces if s.model == card.identity and _is_of_form(s, card)]
    return replace(card, canary=mine[0].canary) if mine else None


def _canary(card: ModelCard, vector: Vectors) -> Canary:
    return Canary(model=card.identity, vector=vector, found_window=card.found_window)


def _is_of_form(space: StoredSpace, card: ModelCard) -> bool:
    """Return whether a space differs from the model's in the name at most."""
    form = (space.dimensions, space.document_prompt, space.query_prompt)
    return form == (card.dimensions, card.document_prompt, card.query_prompt)


def _is_called_otherwise(space: StoredSpace, card: ModelCard) -> bool:
    """Return whether the name alone differs, because another revision is another model by
    intention."""
    kind = card.identity.startswith(HTTP) == space.model.startswith(HTTP)
    name = space.model.removesuffix(card.pins)
    pinned = space.model.endswith(card.pins) and not {"@", "{"} & set(name)
    return kind and pinned and space.model != card.identity


def _is_same(space: StoredSpace, card: ModelCard) -> bool:
    """Return whether the model gives the known-good text the vector that is stored."""
    if space.canary is None or card.canary is None:
        return False
    return cosine(space.canary, card.canary) >= EQUAL_COSINE


def _replace_others(
    databases: Connections, spaces: Sequence[StoredSpace], card: ModelCard, *, rebuild: bool
) -> list[Ddl]:
    """Return the statements for the spaces behind whose name another model answers now."""
    schema = databases.config.target.schema
    named = [s for s in spaces if s.model == card.identity and s.canary is not None]
    others = [space for space in named if not _is_same(space, card)]
    ddl = {}
    for space in others:
        tables = [other for other in others if other.id == space.id]
        filled = [other for other in tables if has_vectors(databases.target, schema, other)]
        if rebuild:
            if (slot := databases.catalogue.slot()) is not None:
                expect_idle(slot, "cdc-embed setup --rebuild")
            now = datetime.now(UTC).isoformat(" ", "seconds")
            ddl[space.id] = retire_ddl(schema, space, f"{space.model} (until {now})")
        elif filled or space.shared:
            raise _mismatch(databases, (filled or tables)[0], card)
        elif card.canary is not None:
            ddl[space.id] = replace_canary_ddl(schema, space, _canary(card, card.canary))
    return list(ddl.values())


def _mismatch(databases: Connections, space: StoredSpace, card: ModelCard) -> SpaceMismatchError:
    schema = databases.config.target.schema
    rows, characters = stored_size(databases.target, schema, space.embedding_table)
    assert space.canary is not None
    assert card.canary is not None
    found = cosine(space.canary, card.canary)
    return SpaceMismatchError(
        table=space.table_name,
        rows=rows,
        difference=f"another model answers to the name {card.identity}: a known-good text's vector "
        f"is not the stored one, cosine {found:.3f}",
        tokens=characters // CHARACTERS_PER_TOKEN,
    )


def _gives_stored_vectors(
    databases: Connections, embedder: Embedder, card: ModelCard, spaces: Sequence[StoredSpace]
) -> bool:
    """Return whether the model gives stored texts, drawn at random, the vectors that they have."""
    drawn = draw_vectors(databases.target, databases.config.target.schema, spaces, DRAWN)
    if not drawn:
        return False
    try:
        vectors = embed_in_parts(embedder, card, [text for text, _ in drawn])
    except TextRefusedError:
        return False
    stored = (vector for _, vector in drawn)
    return all(cosine(v, w) >= EQUAL_COSINE for v, w in zip(stored, vectors, strict=True))
