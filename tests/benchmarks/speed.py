"""The speed, in ratios of one run: ``python -m tests.benchmarks.speed``.

Throughput: 1,000 documents inserted at once, until the last is searchable, against one
``model.encode`` of the same texts. Latency: one insert on an idle system, until it is searchable,
against one ``encode`` of that text plus two commits. Run it on a machine with nothing else to do.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from cdc_embed.demo.corpus import corpus
from cdc_embed.demo.postgres import EmbeddedPostgres
from cdc_embed.embed.sentence_transformers import packaged_minilm
from tests.quiet import let_pass
from tests.site import DOCUMENTS, Site, wait_until

DOCUMENTS_AT_ONCE = 1000
SINGLE_INSERTS = 40


def main() -> None:
    from sentence_transformers import SentenceTransformer

    pages = corpus()
    texts = [f"{page.title}\n\n{page.body}" for page in pages]
    model = SentenceTransformer(str(packaged_minilm()))
    model.encode(texts[:50])
    with EmbeddedPostgres(18, tcp=True) as server, tempfile.TemporaryDirectory() as folder:
        site = Site(server, "speed", Path(folder))
        site.sql(DOCUMENTS)
        site.configure(embedder=f'model = "{packaged_minilm()}"')
        site.cli("setup")
        with site.service(process=True) as service:
            site.sql("insert into documents values (0, 'warm', 'up')")
            service.settle()
            began = time.perf_counter()
            model.encode(texts[:DOCUMENTS_AT_ONCE])
            alone = time.perf_counter() - began
            through = bulk(site)
            began = time.perf_counter()
            model.encode(texts[:DOCUMENTS_AT_ONCE])
            alone = min(alone, time.perf_counter() - began)
            say(
                f"1,000 documents at once: encode {alone:.2f} s, service {through:.2f} s, "
                f"ratio {alone / through:.2f}"
            )
            single(site, model)
        site.close()


def bulk(site: Site) -> float:
    """Seconds from the commit of 1,000 rows to the commit of the last vector."""
    pages = corpus()[:DOCUMENTS_AT_ONCE]
    rows = [(number, page.title, page.body) for number, page in enumerate(pages, 1)]
    marks = ", ".join(["(%s, %s, %s)"] * len(rows))
    values = [value for row in rows for value in row]
    site.sql(f"insert into documents (id, title, body) values {marks}", *values)
    began = time.perf_counter()
    count = "select count(*) from cdc_embed.documents_embedding"
    wait_until(lambda: site.value(count) == DOCUMENTS_AT_ONCE + 1, "all are searchable", 300)
    return time.perf_counter() - began


def single(site: Site, model: object) -> None:
    """One insert at a time, each on an idle system."""
    seconds, encodes, commits = [], [], []
    for number, page in enumerate(corpus()[DOCUMENTS_AT_ONCE:][:SINGLE_INSERTS], 10_000):
        text = f"{page.title}\n\n{page.body}"
        began = time.perf_counter()
        model.encode([text])  # type: ignore[attr-defined]
        encodes.append(time.perf_counter() - began)
        began = time.perf_counter()
        site.sql("update documents set views = views + 1 where id = 0")
        commits.append(time.perf_counter() - began)
        let_pass(0.5)
        began = time.perf_counter()
        site.sql("insert into documents values (%s, %s, %s)", number, page.title, page.body)
        find = "select count(*) from cdc_embed.documents_embedding where id = %s"
        while not site.value(find, number):
            let_pass(0.0005)
        seconds.append(time.perf_counter() - began)
    over = median(seconds) - median(encodes) - 2 * median(commits)
    say(
        f"one insert: {median(seconds) * 1000:.1f} ms until searchable; encode "
        f"{median(encodes) * 1000:.1f} ms, a commit {median(commits) * 1000:.1f} ms; "
        f"{over * 1000:.1f} ms beside them"
    )


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
