"""A PostgreSQL of its own on loopback, from Debian's packages, for the length of a block."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

PASSWORD = "hunter2"
# Nothing here has to survive a crash.
_OPTIONS = "-F -c full_page_writes=off -c synchronous_commit=off -c shared_buffers=16MB"


def find_postgres() -> Path | None:
    """Folder of initdb and pg_ctl: Debian's newest, else that on PATH; None where there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_major)
    on_path = shutil.which("initdb")
    found = debian[-1] if debian else Path(on_path) if on_path else None
    return found.parent if found else None


def _major(initdb: Path) -> int:
    return int(initdb.parents[1].name)


@contextmanager
def postgres_server(programs: Path, databases: Sequence[str]) -> Iterator[str]:
    """Serves empty databases of a user `spa3r`; yields "spa3r:PASSWORD@127.0.0.1:PORT".

    It refuses to run as root, so root lends it the user that Debian's package made.
    """
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="spa3r-postgres-"))  # pytest's own are closed to others
    port, data = free_port(), str(folder / "data")
    (folder / "password").write_text(PASSWORD)
    for path in (folder, folder / "password"):
        if user:
            shutil.chown(path, user)

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, *arguments], user=user, cwd=folder, capture_output=True, text=True,
            env={"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD, "LC_ALL": "C"}, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    try:
        run("initdb", "-D", data, "-U", "spa3r", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync",
            "--pwfile", str(folder / "password"))  # fmt: skip
        listen = f"-h 127.0.0.1 -p {port} -k {folder} {_OPTIONS}"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", listen, "start")
        try:
            for database in databases:
                run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "spa3r", database)
            yield f"spa3r:{PASSWORD}@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
