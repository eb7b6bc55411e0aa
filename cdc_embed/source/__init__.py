"""The source database: its change log, its slot, its catalogue, its rows."""
