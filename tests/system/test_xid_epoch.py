# SPDX-License-Identifier: Apache-2.0
"""A source whose transaction ids have run past 32 bits: the stream carries their lower half, snapshots the whole.

Its next id is a little below 2 * 2^32, so that the lower half starts over while the test runs.
"""
import re
import shutil

from rig import wait_until
from rig.process import run, server_user
from test_gate import DEBUG, gate, wait_gate, wait_open
from test_verify import LOAD, Writers, assert_clean, named, one, verify

WRAP = 2 << 32
BEFORE = 30_000


def just_before_the_wrap(server):
    """Between init and start: epoch 1, and an xid close to its end. What initdb left must be frozen before."""
    server.start()
    for name in "postgres", "template1":
        server.database(name).execute("vacuum freeze")
    server.stop()
    xid = (WRAP - BEFORE) & 0xFFFFFFFF
    segment = server.data / "pg_xact" / f"{xid >> 20:04X}"
    segment.write_bytes(bytes(256 * 1024))
    if server_user():
        shutil.chown(segment, server_user())
    run([server.bin / "pg_resetwal", "-e", "1", "-x", str(xid), "-u", str(xid), "-D", server.data], user=server_user())


def next_xid(m):
    return int(m.source.value("select pg_snapshot_xmax(pg_current_snapshot())::text"))


def burn(m, until):
    m.source.execute("do $$ begin while pg_current_xact_id() < '%d' loop commit; end loop; end $$" % until)


def judged(m):
    """How many rows of a run of verify were explained by changes under way; it found no difference."""
    seen = m.run_cli("verify", "--role", "shadow", timeout=300)
    assert seen.returncode in (0, 1) and " 0 differences" in seen.stdout, seen.stdout + seen.stderr
    assert not re.search(r"[1-9]\d* differences", seen.stdout), seen.stdout + seen.stderr
    return sum(map(int, re.findall(r"(\d+) explained by changes under way", seen.stdout)))


def test_ids_beyond_32_bits(migration, new_postgres, rng):
    source = new_postgres("aged_source", prepare=just_before_the_wrap, autovacuum="off")
    m = migration(source_server=source, verify={"window": "300ms"})
    m.source.execute(LOAD)
    m.start(env=DEBUG)
    wait_gate(m, 1, 90)
    assert 1 << 32 < next_xid(m) < WRAP
    writers = Writers(m, rng)
    try:
        judged(m)
        assert next_xid(m) < WRAP
        # the hot rows are changed while the lower half starts over
        burn(m, WRAP - 300)
        stands = gate(m)
        wait_until(lambda: next_xid(m) > WRAP, 60, lambda: f"the ids to start over: {next_xid(m) - WRAP}")
        # a row is only judged if it was written while it was looked at
        wait_until(lambda: judged(m) > 0, 300, "rows to be judged")
        wait_gate(m, stands + 1)
        wait_open(m)
        m.shadow.execute("update cold set v = 'wrong' where id = 20000; delete from moves where id = 150")
        code, differences, summary, stderr = verify(m, "--role", "shadow")
        assert code == 4 and named(differences) == (one("public.cold", "mismatch", {"id": "20000"}, "v")
                                                    | one("public.moves", "missing", {"id": "150"})), (differences, summary, stderr)
        m.shadow.execute("update cold set v = 'c20000' where id = 20000; insert into moves values (150, 150)")
    finally:
        writers.stop()
    assert "on the shadow, came" not in m.log(), "no alarm of a window"
    wait_open(m)
    assert_clean(m)
    m.stop()
