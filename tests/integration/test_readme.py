"""The programs and commands of the README do as it says."""

import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from cdc_embed.embed.sentence_transformers import packaged_minilm
from tests.site import PATIENCE, Site, wait_until

README = (Path(__file__).parents[2] / "README.md").read_text()

TITLES = {
    1: "How to reset a forgotten password",
    2: "Opening hours of the swimming pool",
    3: "Recipe for apple pie",
}
STORED = "select count(*) from cdc_embed.documents_embedding"


def block(language: str, word: str) -> str:
    """The code block that holds a word."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(code for code in found if word in code)


@pytest.mark.model
def test_the_recipes_find_the_nearest_documents_of_a_tenant(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In SQL, in Python with psycopg2, and on the command line."""
    site.cli("teardown", "--yes")
    site.sql("alter table documents add tenant_id integer")
    site.configure(
        embedder=f'model = "{packaged_minilm()}"',
        tables='[[tables]]\nname = "documents"\ntext = ["title"]\nmetadata = ["tenant_id"]\n',
    )
    for tenant in (42, 43):
        for key, title in TITLES.items():
            row = (tenant * 10 + key, title, tenant)
            site.sql("insert into documents (id, title, tenant_id) values (%s, %s, %s)", *row)
    site.cli("setup")
    with site.service() as service:
        wait_until(lambda: site.value(STORED) == 2 * len(TITLES), "every row has its vector")
        service.logged("indexed")
        done = site.cli("search", "how do I reset my password", "-k", "5")
        assert "reset a forgotten password" in done.stdout.splitlines()[1]

    hub = tmp_path / "sentence-transformers"
    hub.mkdir()
    (hub / "all-MiniLM-L6-v2").symlink_to(packaged_minilm())
    code = block("python", "register_vector").replace("postgresql://app@localhost/app", site.dsn)
    code += "\nfor row in search('I forgot my password', 42, 2):\n    print(row[0], row[1])\n"
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(StringIO()) as printed:
        exec(code, {})
    found = printed.getvalue().splitlines()
    assert found[0] == f"421 {TITLES[1]}"
    assert len(found) == 2

    vector = site.value("select embedding::text from cdc_embed.documents_search where id = 433")
    statements = block("sql", "hnsw.iterative_scan").replace("$1", f"'{vector}'")
    connection = site.connect()
    with connection.cursor() as cursor:
        select = statements.replace("commit;", "")
        cursor.execute(select)
        rows = cursor.fetchall()
    connection.close()
    assert rows[0][0] == 423
    assert {row[0] for row in rows} == {421, 422, 423}


def test_the_library_example_prints_rows_until_it_is_stopped(site: Site, tmp_path: Path) -> None:
    """As it is written, beside its ``cdc_embed.toml``."""
    code = block("python", "cdc_embed.service")
    assert len(code.splitlines()) == 12
    (tmp_path / "cdc_embed.toml").symlink_to(site.config_path)
    site.sql("insert into documents values (1, 'one', 'text')")
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        # structlog prints to stdout, too: the model is told at the start
        assert any(line == "Press Enter to stop\n" for line in program.stdout)
        told = next(line for line in program.stdout if line.startswith("write "))
        assert re.fullmatch(r"write public\.documents \{'id': 1\} \d+\.\d+\n", told)
        program.communicate("\n", timeout=PATIENCE)
    finally:
        program.kill()
    assert program.returncode == 0
    assert site.drift() == []
