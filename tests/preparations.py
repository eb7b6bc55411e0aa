"""A signal that the database does not give: a batch of the log is prepared."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from cdc_embed.flow.prepare import Preparer
from cdc_embed.flow.supply import Prepared


@contextmanager
def preparations() -> Iterator[list[Prepared]]:
    """Every batch that services of this process prepare meanwhile, as soon as it is prepared."""
    done: list[Prepared] = []
    prepare = Preparer.prepare

    def prepare_and_tell(preparer: Preparer, *given: Any) -> Prepared:
        prepared = prepare(preparer, *given)
        done.append(prepared)
        return prepared

    with patch.object(Preparer, "prepare", prepare_and_tell):
        yield done
