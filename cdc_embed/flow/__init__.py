"""When things run: the loop, its workers, and what comes before it."""
