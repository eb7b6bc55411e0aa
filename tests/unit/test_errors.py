"""The messages of the errors, as users see them."""

import pytest

from cdc_embed.errors import CdcEmbedError, OtherModelError


class UndescribedError(CdcEmbedError):
    pass


class LongError(CdcEmbedError):
    """table {table}: a message that is longer than
    a line of the code"""


def test_a_message_is_one_line_whatever_its_length() -> None:
    assert (
        str(LongError(table="a  b"))
        == "table a  b: a message that is longer than a line of the code"
    )


@pytest.mark.parametrize("error", [OtherModelError(model="m", cosine=0.5), UndescribedError()])
def test_every_error_has_a_message_of_one_line(error: CdcEmbedError) -> None:
    assert str(error)
    assert "\n" not in str(error)
