"""All mutations, of every room."""

from typing import Final

from tests.mutations import (
    change,
    config,
    embed,
    flow,
    postgres,
    reconcile,
    service,
    setup,
    source,
    target,
)

ROOMS: Final = (change, config, embed, flow, postgres, reconcile, service, setup, source, target)
MUTATIONS: Final = tuple(mutation for room in ROOMS for mutation in room.MUTATIONS)
