"""A physical standby of another server, made as an administrator would."""

import shutil
from collections.abc import Mapping

from cdc_embed.demo.postgres import EmbeddedPostgres


class Standby(EmbeddedPostgres):
    """A physical standby of another server; with a ``slot`` of its own there, if it has a name."""

    def __init__(
        self,
        primary: EmbeddedPostgres,
        *,
        slot: str = "",
        dbname: str = "postgres",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(primary.version, settings, tcp=True)
        self._primary = primary
        self._slot = slot
        self._dbname = dbname

    def _create(self) -> None:
        super()._create()
        data = self.socket_dir / "data"
        configuration = (data / "postgresql.conf").read_text()
        shutil.rmtree(data)
        command = [
            str(self.binaries / "pg_basebackup"),
            f"--pgdata={data}",
            "--write-recovery-conf",
        ]
        command += [f"--dbname={self._primary.dsn(self._dbname)}", "--checkpoint=fast", "--no-sync"]
        if self._slot:
            command += ["--create-slot", f"--slot={self._slot}"]
        assert self._spawn(command).wait() == 0
        (data / "postgresql.conf").write_text(configuration)
