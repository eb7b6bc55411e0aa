"""Each image of a change on the wire, and its result: the same target, the fewest calls.

A case is SQL; each of its strings is one transaction. It runs twice on every kind of source: each
transaction by itself, and all of them in one batch, while an earlier text is being embedded. What
is stored afterwards is compared with the source, and texts are counted by the embedding service.
"""

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.row_images import keys, partitions, rows, tables
from tests.row_images.stage import Case, Stage
from tests.site import EmbeddingServer
from tests.sources import OLDER, PUBLISHED, SOURCES, kinds, make_source, sites

CASES: Final = {**rows.CASES, **keys.CASES, **tables.CASES}
ALONE: Final = kinds("pgoutput-18", long=("wal2json-15", *OLDER))
"""The sources of the cases alone: few, because their batches do not depend on the plugin."""


@pytest.fixture(scope="module", params=SOURCES)
def shared_stage(
    request: pytest.FixtureRequest,
    servers: Callable[[int], EmbeddedPostgres],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    with sites(servers, tmp_path_factory.mktemp("images")) as make, EmbeddingServer() as embedder:
        stage = Stage(
            make_source(make, request.param), embedder, partitions=request.param[0] == "pgoutput"
        )
        try:
            yield stage
        finally:
            stage.close()


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    shared_stage.clear()
    return shared_stage


@pytest.mark.parametrize("shared_stage", ALONE, indirect=True, scope="module")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_transaction_by_itself(stage: Stage, case: Case) -> None:
    check_alone(stage, case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_all_transactions_in_one_batch(stage: Stage, case: Case) -> None:
    check_at_once(stage, case)


@pytest.mark.parametrize("shared_stage", PUBLISHED, indirect=True, scope="module")
@pytest.mark.parametrize("check", ["alone", "at once"])
@pytest.mark.parametrize("case", partitions.CASES.values(), ids=partitions.CASES)
def test_partitions(stage: Stage, case: Case, check: str) -> None:
    """Without wal2json, which names the partition of a row: ``setup`` refuses such tables."""
    (check_alone if check == "alone" else check_at_once)(stage, case)


def check_alone(stage: Stage, case: Case) -> None:
    prepare(stage, case)
    assert stage.run(*case.when) in expected(case)
    assert stage.drift() == {}


def check_at_once(stage: Stage, case: Case) -> None:
    prepare(stage, case)
    texts = stage.run_at_once(*case.when, pauses=case.pauses)
    assert texts in expected(case) if case.pauses else texts == case.texts
    assert stage.drift() == {}


def expected(case: Case) -> range:
    """Numbers of texts for transactions by themselves."""
    if isinstance(case.alone, range):
        return case.alone
    texts = case.texts if case.alone is None else case.alone
    return range(texts, texts + 1)


def prepare(stage: Stage, case: Case) -> None:
    for transaction in case.given:
        stage.site.sql(transaction)
    stage.settle()


def test_rewrites_of_a_table_are_no_changes(stage: Stage) -> None:
    """Not one row is sent, so that no rewrite of a table is work."""
    stage.site.sql("insert into scratch select i, 't', 'b' || i from generate_series(1, 100) i")
    stage.settle()
    before = stage.service.metric("cdc_embed_changes_received_total")
    stage.site.sql("vacuum full scratch")
    stage.site.sql("cluster scratch using scratch_pkey")
    stage.site.sql("alter table scratch add stamp uuid default gen_random_uuid()")
    stage.site.sql("alter table scratch alter views type bigint")
    stage.site.sql("alter table scratch drop stamp, alter views type integer")
    stage.service.settle()
    assert stage.service.metric("cdc_embed_changes_received_total") == before
    assert stage.embedder.texts() == 0
    assert stage.drift() == {}


def test_a_large_transaction_among_small_ones(stage: Stage) -> None:
    """Rolled back it costs nothing; committed, its texts come after those that it overtook."""
    many = "insert into documents select i, 't', 'text ' || i % 250 from generate_series(1, 5000) i"
    small = "insert into notes (title, body) values ('n', %s)"
    for verdict, texts in (("rollback", 10), ("commit", 260)):
        stage.settle()
        large = stage.site.connect()
        with large.cursor() as cursor:
            cursor.execute(many)
            for number in range(5):
                stage.site.sql(small, f"{verdict} {number}")
            cursor.execute("update documents set views = 1 where id % 10 = 0")
            for number in range(5, 10):
                stage.site.sql(small, f"{verdict} {number}")
            cursor.execute("delete from documents where id > 4990")
            cursor.execute(verdict)
        large.close()
        stage.service.settle()
        assert stage.embedder.texts() == texts
        assert stage.drift() == {}
    assert stage.site.value("select count(*) from documents") == 4990
