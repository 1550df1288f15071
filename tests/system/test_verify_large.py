# SPDX-License-Identifier: Apache-2.0
"""foreshadow verify of one large table: right, with one row wrong, and when the source is gone halfway.

Everyday 200,000 rows; --long ten million.
"""
from concurrent.futures import ThreadPoolExecutor

from following import wait_caught_up, wait_live
from test_verify import verify

ROWS, ROWS_LONG = 200_000, 10_000_000
TABLE = "create table large (id int primary key, v text not null, n numeric, at timestamptz)"
FILL = "insert into large select i, 'v' || i % 977, i / 4.0, '2024-01-01'::timestamptz + i * interval '1 second' from generate_series({}, {}) i"
TIMEOUT = {False: 200, True: 3000}


def make(migration, new_postgres, rows, is_long):
    source = new_postgres("large_source")
    m = migration(source_server=source)
    m.source.execute(f"{TABLE}; {FILL.format(1, rows)}; create table small (id int primary key); insert into small values (1); analyze")
    m.start()
    wait_live(m, timeout=TIMEOUT[is_long])
    wait_caught_up(m, timeout=TIMEOUT[is_long])
    return m, source


def test_one_row_of_many(migration, new_postgres, rng, is_long):
    rows = ROWS_LONG if is_long else ROWS
    m, source = make(migration, new_postgres, rows, is_long)
    code, differences, summary, stderr = verify(m, timeout=TIMEOUT[is_long])
    assert (code, differences) == (0, []), (code, differences[:3], stderr)
    assert summary["verdict"] == "clean" and summary["coverage"] == 1 and summary["rows"] == 2 * (rows + 1), summary
    # one of them
    id = rng.randint(1, rows)
    m.target.execute("update large set n = n + 0.01 where id = %s", id)
    code, differences, summary, stderr = verify(m, timeout=TIMEOUT[is_long])
    assert code == 4 and summary["verdict"] == "diverged" and summary["rows"] == 2 * (rows + 1), (code, summary, stderr)
    assert [(d["table"], d["role"], d["kind"], d["key"], d["columns"]) for d in differences] == [
        ("public.large", "primary", "mismatch", {"id": str(id)}, ["n"])], differences
    # as a person reads it
    seen = m.run_cli("verify", "--role", "primary", timeout=TIMEOUT[is_long])
    assert seen.returncode == 4 and f'mismatch   public.large on the primary  key {{"id":"{id}"}}' in seen.stdout, seen.stdout
    m.target.execute("update large set n = n - 0.01 where id = %s", id)
    # the source goes away while the table is read: held there by a lock
    holder = m.source.connect()
    with ThreadPoolExecutor(1) as pool:
        holder.execute("begin; lock table large in access exclusive mode")
        asked = pool.submit(verify, m, timeout=TIMEOUT[is_long])
        m.source.poll("select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'", 1, 120)
        source.stop("immediate")
        code, differences, summary, stderr = asked.result()
    holder.close()
    assert (code, differences) == (1, []) and summary["verdict"] == "incomplete" and summary["coverage"] < 1, (code, differences, summary)
    for role in "shadow", "primary":
        assert any(f"public.large on the {role}" in line and "not verified" in line for line in stderr.splitlines()), stderr
    m.kill9()
    # and when it was never there
    code, differences, summary, stderr = verify(m)
    assert (code, differences) == (1, []) and summary["coverage"] == 0 and "cannot connect to the source" in stderr, (code, summary, stderr)
    for table in "large", "small":
        for role in "shadow", "primary":
            assert any(f"public.{table} on the {role}" in line and "not verified" in line for line in stderr.splitlines()), stderr
    source.start()
