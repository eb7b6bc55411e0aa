"""The measured speed of the embedder, which decides how much one batch takes."""

from typing import Final

BATCH_SECONDS: Final = 0.5
"""The seconds that one batch should take to embed, long enough for efficiency, short enough for
fresh vectors."""
FIRST_CHARACTERS_PER_SECOND: Final = 20_000.0


class Rate:
    """The measured speed of the embedder, in characters a second."""

    def __init__(self) -> None:
        self._per_second = FIRST_CHARACTERS_PER_SECOND

    def measured(self, characters: int, seconds: float) -> None:
        """Take in how long so many characters took."""
        if characters and seconds > 0:
            self._per_second += 0.3 * (characters / seconds - self._per_second)

    @property
    def characters_per_batch(self) -> float:
        """The characters that one batch should have."""
        return self._per_second * BATCH_SECONDS
