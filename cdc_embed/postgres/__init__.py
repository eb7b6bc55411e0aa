"""A session of either database: connecting, errors, liveness."""
