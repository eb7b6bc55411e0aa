"""T3: a transaction can be decoded before a SELECT sees it; a read must wait until it does."""

import random
import string
import threading

import pytest

from cdc_embed.change.snapshot import widen
from cdc_embed.demo.postgres import EmbeddedPostgres
from tests.site import DOCUMENTS, Site, wait_until


def test_text_is_not_read_before_its_commit_is_visible(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The commit waits for a standby that does not exist; its change is in the log already.

    Without the visibility check the old row is read, found equal to what is stored, and skipped.
    """
    folder = tmp_path_factory.mktemp("refetch")
    with EmbeddedPostgres(18, tcp=True) as server, EmbeddedPostgres(16) as other:
        target = Site(other, "vectors", folder)
        site = Site(server, "texts", folder, target)
        site.sql(DOCUMENTS)
        site.sql("alter table documents alter body set storage external")
        body = "".join(random.Random(3).choices(string.ascii_letters, k=6000))
        site.configure()
        site.cli("setup")
        with site.service() as service:
            site.sql("insert into documents values (1, 'old title', %s)", body)
            service.settle()
            site.sql("alter system set synchronous_standby_names = 'nobody'")
            site.sql("select pg_reload_conf()")
            wait_until(lambda: site.value("show synchronous_standby_names") == "nobody", "reload")
            update = "update documents set title = 'new title'"
            writer = threading.Thread(target=site.transaction, args=(update,))
            writer.start()
            waited = wait_until(lambda: service.status()["waiting"].get("source"), "the read waits")
            assert "committed but not visible yet" in waited
            assert site.value("select title from documents") == "old title"
            assert service.get("/livez") == "ok\n"
            site.sql("alter system reset synchronous_standby_names")
            site.sql("select pg_reload_conf()")
            writer.join(30)
            service.settle()
            assert site.value("select title from documents") == "new title"
            assert site.drift() == []
            assert service.stop() == 0
        site.close()
        target.close()


@pytest.mark.parametrize(
    ("xid", "xmax", "wide"),
    [
        (5, 10, 5),
        (12, 10, 12),
        (0xFFFFFFF0, 0x1_0000_0010, 0xFFFFFFF0),
        (5, 0x1_0000_0010, 0x1_0000_0005),
        (3, 0xFFFFFFFF, 0x1_0000_0003),
        (0x80000001, 0x3_0000_0000, 0x2_8000_0001),
    ],
)
def test_transaction_ids_are_widened_by_signed_distance(xid: int, xmax: int, wide: int) -> None:
    assert widen(xid, xmax) == wide
