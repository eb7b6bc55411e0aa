"""One running service, and the library's door: the same service as ``cdc-embed run``, in a program.

    from cdc_embed.service import load_config, running

    with running(load_config("cdc_embed.toml"), listeners=[print]) as service:
        service.run()  # until service.stop(), from any thread

The errors are those of ``cdc_embed.errors``; all of them are a ``CdcEmbedError`` with a ``hint``.
"""

from cdc_embed.config.load import Config, load_config
from cdc_embed.errors import CdcEmbedError
from cdc_embed.flow.telemetry import Committed, Listener, Positions
from cdc_embed.service.phase import Phase
from cdc_embed.service.service import Service
from cdc_embed.service.start import running
from cdc_embed.service.tolerance import Tolerance

__all__ = [
    "CdcEmbedError",
    "Committed",
    "Config",
    "Listener",
    "Phase",
    "Positions",
    "Service",
    "Tolerance",
    "load_config",
    "running",
]
