"""Each mutation still takes out what it says: its line is there, once, and so is its test."""

import pytest

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_has_its_line_and_its_test(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text().count(mutation.line) == 1
    file, name = mutation.test.split("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text()


def test_mutations_are_told_apart_by_their_names() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
