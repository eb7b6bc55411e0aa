"""The model that answers, beside the one that made the stored vectors: named, adopted, replaced."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from cdc_embed.embed.sentence_transformers import packaged_minilm
from tests.services import Service, serving
from tests.site import DOCUMENTS, Site, columns, wait_until

ROWS = 80


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.fixture
def filled(make_site: Callable[..., Site], service: Service) -> Site:
    """A site whose rows have their vectors, the service of ours stopped."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql(
        "insert into documents select i, 't', 'text ' || i from generate_series(1, %s) i", ROWS
    )
    configure(site, service)
    site.cli("setup")
    run(site)
    service.forget()
    return site


def configure(site: Site, service: Service, embedder: str = "", *, model: str = "m") -> None:
    site.configure(
        embedder=service.configuration.replace('"m"', f'"{model}"') + embedder,
        more='[index]\nkind = "none"\n',
    )


def run(site: Site, rows: int = ROWS) -> None:
    with site.service() as running:
        wait_until(lambda: len(stored(site)) == rows, "every row has its vector")
        assert running.stop() == 0
    site.wait_for_last_session()


def stored(site: Site) -> list[tuple[Any, ...]]:
    """Each row of the table of vectors as it is, with its place on the disk."""
    rows = "select embedding::text, ctid, t.* from cdc_embed.documents_embedding t order by id"
    return site.sql(rows)


def models(site: Site) -> list[str]:
    found: list[str] = columns(site.sql("select model from cdc_embed.space order by id"))
    return found


def checks(site: Site, *, expect: int) -> dict[str, Any]:
    found = json.loads(site.cli("doctor", "--json", expect=expect).stdout)["checks"]
    return {check["id"]: check for check in found}


def ended(site: Site, code: int) -> str:
    with site.service(wait=False) as running:
        assert running.wait() == code, "".join(running.output)
    site.wait_for_last_session()
    return "".join(running.output)


def test_another_model_behind_the_name_stops_before_a_write(filled: Site, service: Service) -> None:
    site = filled
    before = stored(site), site.sql("select t::text from cdc_embed.space t")
    service.habits.weights = "second"
    site.sql("insert into documents values (1000, 't', 'new')")
    for said in (ended(site, 4), site.cli("setup", expect=4).stderr):
        assert "another model answers to the name http:m" in said
        assert f"{ROWS} rows" in said
        assert "put the old setting back" in said
        assert "cdc-embed setup --rebuild && cdc-embed run" in said
    assert "another model answers" in checks(site, expect=4)["model"]["message"]
    assert before == (stored(site), site.sql("select t::text from cdc_embed.space t"))
    assert not any("new" in text for text in service.texts)


def test_the_former_model_goes_on_where_it_stopped(filled: Site, service: Service) -> None:
    service.habits.weights = "second"
    ended(filled, 4)
    service.habits.weights = "first"
    service.forget()
    filled.sql("insert into documents values (1000, 't', 'new')")
    run(filled, ROWS + 1)
    assert len([text for text in service.texts if text.startswith("t\n")]) == 1


def test_a_rebuild_gives_every_row_a_vector_of_the_new_model(
    filled: Site, service: Service
) -> None:
    site = filled
    before = stored(site)
    service.habits.weights = "second"
    site.cli("setup", "--rebuild")
    assert stored(site) == []
    former, present = models(site)
    assert former.startswith("http:m (until 20")
    assert present == "http:m"
    run(site)
    assert not {row[0] for row in before} & {row[0] for row in stored(site)}
    assert site.verify("--sample", "100")["drift"] == 0
    assert "nothing to do" in site.cli("setup").stderr


def test_a_rebuild_beside_a_running_service_changes_nothing(filled: Site, service: Service) -> None:
    site = filled
    with site.service() as running:
        service.habits.weights = "second"
        said = site.cli("setup", "--rebuild", expect=75).stderr
        assert "cdc-embed setup --rebuild" in said
        assert models(site) == ["http:m"]
        assert running.stop() == 0


def test_a_name_without_vectors_takes_any_model(
    make_site: Callable[..., Site], service: Service
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    configure(site, service)
    site.cli("setup")
    service.habits.weights = "second"
    with site.service() as running:
        site.sql("insert into documents values (1, 't', 'new')")
        running.settle()
        assert running.stop() == 0
    site.cli("setup")


def test_another_model_after_an_outage_stops_before_a_write(filled: Site, service: Service) -> None:
    site = filled
    before = stored(site)
    with site.service() as running:
        service.habits.away = 503
        site.sql("insert into documents values (1000, 't', 'new')")
        wait_until(lambda: running.status()["waiting"].get("embed"), "it is away")
        service.habits.weights = "second"
        service.habits.away = None
        assert running.wait() == 4
    said = "".join(running.output)
    assert "another model answers to the name http:m" in said
    assert "have the former model answer again" in said
    assert "cdc-embed setup --rebuild && cdc-embed run" in said
    assert stored(site) == before


def test_a_renamed_alias_is_adopted_and_no_vector_is_touched(
    filled: Site, service: Service
) -> None:
    site = filled
    before = stored(site)
    configure(site, service, model="alias")
    assert checks(site, expect=0)["space"]["ok"]
    assert models(site) == ["http:m"], "doctor only reads"
    service.forget()
    site.sql("insert into documents values (1000, 't', 'new')")
    run(site, ROWS + 1)
    assert models(site) == ["http:alias"]
    assert stored(site)[:ROWS] == before
    embedded = [text for text in service.texts if text.startswith("t\n")]
    assert len(embedded) == 50 + 1
    assert len(set(embedded)) == 51, "drawn at random, each once"


@pytest.mark.parametrize("rows", [3, ROWS])
def test_setup_adopts_a_renamed_alias_too(filled: Site, service: Service, rows: int) -> None:
    site = filled
    if rows < ROWS:
        site.sql("delete from documents where id > %s", rows)
        with site.service() as running:
            running.settle()
            assert running.stop() == 0
        site.wait_for_last_session()
    before = stored(site)
    configure(site, service, model="alias")
    shown = site.cli("setup", "--dry-run").stdout
    assert "model http:m is called http:alias now, its vectors stay" in shown
    assert models(site) == ["http:m"]
    service.forget()
    site.cli("setup")
    assert len([text for text in service.texts if text.startswith("t\n")]) == min(50, rows)
    assert models(site) == ["http:alias"]
    assert stored(site) == before


def test_an_alias_is_adopted_where_no_text_is_stored(
    make_site: Callable[..., Site], service: Service
) -> None:
    """The texts are read from the source; one that has changed meanwhile proves nothing."""
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 5) i")
    table = '[[tables]]\nname = "documents"\ntext = ["title", "body"]\nstore_text = false\n'
    site.configure(embedder=service.configuration, tables=table)
    site.cli("setup")
    run(site, 5)
    before = stored(site)
    site.sql("update documents set body = 'changed' where id = 5")
    service.forget()
    site.configure(embedder=service.configuration.replace('"m"', '"alias"'), tables=table)
    with site.service() as running:
        running.settle()
        assert running.stop() == 0
    assert models(site) == ["http:alias"]
    assert stored(site)[:4] == before[:4]
    assert len([text for text in service.texts if text.startswith("t\n")]) == 4 + 1
    site.sql("drop view cdc_embed.documents_search")
    site.configure(embedder=service.configuration, tables=table)
    assert "configured 'http:m'" in site.cli("setup", expect=4).stderr, "nothing proves it"


OTHER_SPACE = """
insert into cdc_embed.space (model, dimensions, document_prompt, query_prompt, preparation)
select model, dimensions, document_prompt, query_prompt, 'another' from cdc_embed.space
"""
OTHER_SLOT = """
insert into cdc_embed.embedding_table (table_name, embedding_table, space, slot)
select 'public.x', 'x_embedding', max(id), 'other' from cdc_embed.space
"""


@pytest.mark.parametrize("shared", [False, True])
def test_the_spaces_of_another_slot_keep_the_name_of_the_model(
    filled: Site, service: Service, *, shared: bool
) -> None:
    """The other service has the former name in its configuration."""
    site = filled
    if not shared:
        site.sql(OTHER_SPACE)
    site.sql(OTHER_SLOT)
    configure(site, service, model="alias")
    if shared:
        assert "model 'http:m', configured 'http:alias'" in ended(site, 4)
        assert models(site) == ["http:m"]
    else:
        run(site)
        assert models(site) == ["http:alias", "http:m"]


def test_a_name_of_another_model_is_not_adopted(filled: Site, service: Service) -> None:
    """The known-good text alone is not enough: it is in every test of the world."""
    site = filled
    configure(site, service, model="alias")
    answer = service.answer

    def knows_the_known_good(body: dict[str, Any]) -> Any:
        rows = any(text.startswith("t\n") for text in body["input"])
        service.habits.weights = "second" if rows else "first"
        return answer(body)

    service.answer = knows_the_known_good  # type: ignore[method-assign]
    said = ended(site, 4)
    assert "model 'http:m', configured 'http:alias'" in said
    assert models(site) == ["http:m"]


def test_a_space_without_a_canary_takes_it_at_the_next_start(
    filled: Site, service: Service
) -> None:
    site = filled
    site.sql("update cdc_embed.space set canary = null, found_window = null")
    run(site)
    assert len(site.value("select canary from cdc_embed.space")) == 8
    assert site.value("select found_window from cdc_embed.space") == 512
    service.habits.weights = "second"
    assert "another model answers" in ended(site, 4)


# --- a service that is away at the start ---------------------------------------------------------


def test_an_embedder_that_is_away_at_the_start_is_waited_for(
    filled: Site, service: Service
) -> None:
    """Deletes, and rows whose text did not change, are written meanwhile."""
    site = filled
    service.habits.away = 503
    site.cli("setup", expect=75)
    assert not checks(site, expect=75)["model"]["ok"]
    assert site.verify()["tables"][0]["fresh"] == ROWS, "a comparison needs no model"
    with site.service() as running:
        wait_until(lambda: "embedder" in running.unready(), "it is named")
        assert running.get("/livez")
        site.sql("delete from documents where id <= 10")
        assert site.verify()["drift"] == 0
        wait_until(lambda: len(stored(site)) == ROWS - 10, "deletes do not wait")
        service.habits.away = None
        wait_until(lambda: not running.unready(), "it is ready")
        site.sql("insert into documents values (1000, 't', 'new')")
        running.settle()
        assert running.stop() == 0
    assert site.verify()["drift"] == 0


def test_a_wrong_embedder_that_was_away_ends_the_service(filled: Site, service: Service) -> None:
    site = filled
    before = stored(site)
    service.habits.away = 503
    with site.service() as running:
        service.habits.weights = "second"
        service.habits.away = None
        assert running.wait() == 4
    assert "another model answers to the name http:m" in "".join(running.output)
    assert stored(site) == before


def test_without_a_canary_the_start_waits_for_the_embedder(filled: Site, service: Service) -> None:
    site = filled
    site.sql("update cdc_embed.space set canary = null, found_window = null")
    service.habits.away = 503
    with site.service(wait=False) as running:
        wait_until(lambda: "waits for: embedder" in running.unready(), "it is named")
        assert running.get("/livez")
        service.habits.away = None
        running.wait_for("streaming")
        assert running.stop() == 0
    assert site.value("select canary is not null from cdc_embed.space")


@pytest.mark.parametrize("stored", [False, True])
def test_a_stop_ends_a_start_that_waits(filled: Site, service: Service, *, stored: bool) -> None:
    site = filled
    if not stored:
        site.sql("update cdc_embed.space set canary = null")
    service.habits.away = 503
    with site.service(wait=stored) as running:
        wait_until(lambda: "embedder" in running.unready(), "it waits")
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("habits", "words"),
    [
        ({"vectors": lambda vectors: vectors[::-1]}, "not in the order"),
        ({"vectors": lambda vectors: vectors * 0}, "zeros alone"),
        ({"cuts": 100}, "it cuts long texts"),
        ({"takes": 100}, "it refuses a text of 512 tokens"),
        ({"models": ("other",)}, "the model does not exist"),
    ],
)
def test_a_wrong_answer_at_the_start_is_told_by_every_command(
    filled: Site, service: Service, habits: dict[str, Any], words: str
) -> None:
    site = filled
    for name, value in habits.items():
        setattr(service.habits, name, value)
    assert words in ended(site, 4)
    assert words in site.cli("setup", expect=4).stderr
    assert words in checks(site, expect=4)["model"]["message"]


def test_refused_dimensions_are_told_by_every_command(filled: Site, service: Service) -> None:
    site = filled
    configure(site, service, "dimensions = 8\n")
    service.habits.knows_dimensions = False
    for said in (ended(site, 4), site.cli("setup", expect=4).stderr):
        assert "without embedder.dimensions it answers, and its vectors have that many" in said
        assert "set embedder.dimensions = 0" in said


# --- the window ----------------------------------------------------------------------------------

WORDS = " ".join(f"word{n}" for n in range(5000))
CAP = 400


@pytest.mark.parametrize("pages", [{}, {"/info": {"max_input_length": CAP}}])
@pytest.mark.parametrize("tokenizer", [False, True])
def test_long_rows_are_cut_into_chunks_that_the_service_takes(
    make_site: Callable[..., Site], tmp_path: Path, pages: dict[str, Any], *, tokenizer: bool
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    for number in range(3):
        words = WORDS.replace("word", f"word{number}x")
        site.sql("insert into documents values (%s, 't', %s)", number, words)
    more = ""
    if tokenizer:
        counter = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
        counter.pre_tokenizer = Whitespace()
        counter.save(str(tmp_path / "tokenizer.json"))
        more = f'tokenizer = "{tmp_path}"\n' + ("" if pages else f"window = {CAP}\n")
    with serving(takes=CAP, pages=pages) as service:
        configure(site, service, more)
        site.cli("setup")
        service.forget()
        with site.service() as running:
            wait_until(lambda: len({row[2] for row in stored(site)}) == 3, "every row is there")
            assert running.stop() == 0
        assert service.refused == []
        rows = [text for text in service.texts if "word" in text]
        assert len(rows) > 3 * 5000 // CAP
        assert max(len(text.split()) for text in rows) <= CAP
    assert site.value("select count(*) from cdc_embed.dead_letter") == 0


def test_a_window_that_grew_cuts_nothing_anew(filled: Site, service: Service) -> None:
    """Only one that has become too small for the stored chunks is another space."""
    site = filled
    service.habits.pages = {"/info": {"max_input_length": 8192}}
    run(site)
    assert not [text for text in service.texts if text.startswith("t\n")]
    service.habits.pages = {"/info": {"max_input_length": 256}}
    assert "of 512 tokens', configured" in ended(site, 4)
    site.cli("setup", "--rebuild")
    run(site)
    assert not [text for text in service.texts if text.startswith("t\n")]
    assert "nothing to do" in site.cli("setup").stderr


@pytest.mark.model
def test_a_folder_that_was_renamed_is_the_same_model(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = make_site(18)
    site.sql(DOCUMENTS)
    site.sql("insert into documents select i, 't', 'text ' || i from generate_series(1, 3) i")
    shutil.copytree(packaged_minilm(), tmp_path / "before")
    site.configure(embedder=f'model = "{tmp_path / "before"}"')
    site.cli("setup")
    run(site, 3)
    before = stored(site)
    (tmp_path / "before").rename(tmp_path / "after")
    site.configure(embedder=f'model = "{tmp_path / "after"}"')
    run(site, 3)
    assert [model.partition("@")[0] for model in models(site)] == ["after"]
    assert stored(site) == before


def test_chunks_that_one_table_wants_change_no_other_table(
    make_site: Callable[..., Site], service: Service
) -> None:
    """They say that the service takes so many tokens, not that every table wants them."""
    site = make_site(18)
    site.transaction(DOCUMENTS, "create table notes (id int primary key, body text)")
    tables = '[[tables]]\nname = "{}"\ntext = ["body"]\nchunk = {{ max_tokens = {} }}\n'
    for size in (1000, 100):
        both = tables.format("documents", 0) + tables.format("notes", size)
        site.configure(embedder=service.configuration, tables=both)
        site.cli("setup")
        spaces = columns(site.sql("select preparation from cdc_embed.space order by id"))
        assert "of 512 tokens" in spaces[0]
        assert f"of {size} tokens" in spaces[-1]
    assert len(spaces) == 3


def test_another_model_of_another_size_has_the_two_ways_out(filled: Site, service: Service) -> None:
    site = filled
    service.habits.dimensions = 16
    for said in (ended(site, 4), site.cli("setup", expect=4).stderr):
        assert "dimensions 8, configured 16" in said
        assert "cdc-embed setup --rebuild && cdc-embed run" in said
    site.cli("setup", "--rebuild")
    run(site)
    assert site.verify("--sample", "100")["drift"] == 0
