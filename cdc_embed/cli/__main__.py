"""``python -m cdc_embed.cli``: the same as ``cdc-embed``."""

from cdc_embed.cli.main import main

main()
