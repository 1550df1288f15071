# SPDX-License-Identifier: Apache-2.0
"""Values that move between rows under constraints beside the key: unique, exclusion, on either side."""
import random

import pytest

from following import assert_follows, wait_live
from rig import assert_equal

SWAPS = ("create table plain (id int primary key, u int not null unique, v text default 'v');"
         "create table late_check (id int primary key, u int unique deferrable initially deferred, v text default 'v');"
         "insert into plain select i, i from generate_series(1, 40) i;"
         "insert into late_check select i, i from generate_series(1, 40) i;")


def swap(db, seed, transactions=150):
    """Transactions in which two rows take each other's value: through a third one, and directly."""
    rng = random.Random(seed)
    with db.connect() as c:
        for _ in range(transactions):
            a, b = rng.sample(range(1, 41), 2)
            with c.transaction():
                (x,), (y,) = (c.execute("select u from plain where id = %s", (i,)).fetchone() for i in (a, b))
                c.execute("update plain set u = -1 where id = %s", (a,))
                c.execute("update plain set u = %s where id = %s", (x, b))
                c.execute("update plain set u = %s where id = %s", (y, a))
                (x,), (y,) = (c.execute("select u from late_check where id = %s", (i,)).fetchone() for i in (a, b))
                c.execute("update late_check set u = %s where id = %s", (y, a))
                c.execute("update late_check set u = %s where id = %s", (x, b))


def unique_indexes(db):
    return {name for name, in db.sql("select indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indrelid"
                                     " where c.relnamespace = 'public'::regnamespace and indisunique and not indisprimary"
                                     " and indisvalid")}


def routings(m):
    items = m.json("check")["items"] if m.run_cli("check").returncode == 0 else []
    return {item["text"].split(" ->")[0]: item["text"].split("routing ")[1] for item in items
            if item["object"] == "table" and "routing" in item["text"]}


@pytest.mark.parametrize("mode", [None, "late", "early"])
def test_swaps_arrive_and_the_indexes_are_there_at_the_end(migration, rng, mode):
    m = migration(unique=mode, lanes=4)
    m.source.execute(SWAPS)
    routing = routings(m)
    if mode == "early":
        assert routing["public.plain"].startswith("table: the source has a further unique")
    else:
        assert routing["public.plain"] == "key, built at the end: plain_u_key"
    m.start()
    wait_live(m)
    for db in m.targets():
        assert unique_indexes(db) == ({"plain_u_key", "late_check_u_key"} if mode == "early" else set())
    swap(m.source, rng.random())
    assert_follows(m)
    m.stop()
    swap(m.source, rng.random())
    process = m.run_until("caught-up")
    for db in m.targets():
        assert_equal(m.source, db)
        assert unique_indexes(db) == {"plain_u_key", "late_check_u_key"}
        assert db.value("select condeferred from pg_constraint where conname = 'late_check_u_key'")
    built = [line for line in process.log().splitlines() if "unique index built" in line]
    assert len(built) == (0 if mode == "early" else 4), process.log()
    assert all("seconds=" in line and "table=public." in line for line in built)


def test_partitions_includes_keys_that_refer_and_names_in_quotes(migration):
    """What hangs together comes together, in both directions: built at the end, taken back by the next run."""
    m = migration()
    m.source.execute(
        'create table "A b" (id int primary key, "x y" int, note text);'
        'create unique index "odd ""name" on "A b" (lower(note), "x y") include (id) where note <> \'\';'
        'create unique index wide on "A b" ("x y") with (fillfactor = 70);'
        "create table parent (id int primary key, code text unique, code2 text);"
        "create table child (id int primary key, code text references parent (code), other int references parent);"
        "create table leaves (id int, day int, v int, primary key (id, day), unique (day, v)) partition by range (day);"
        "create table leaves_1 partition of leaves for values from (0) to (10);"
        "create table leaves_2 partition of leaves for values from (10) to (30) partition by range (day);"
        "create table leaves_2a partition of leaves_2 for values from (10) to (20);"
        "create table leaves_2b partition of leaves_2 for values from (20) to (30);"
        "create unique index leaf_only on leaves_1 (v);"
        "create unique index by_day on leaves (v, day);"
        "create table keyless (a int unique, b int); alter table keyless replica identity full;"
        "create table ident (a int not null, b int unique); create unique index ident_a on ident (a);"
        "alter table ident replica identity using index ident_a;"
        "insert into \"A b\" select i, i, i from generate_series(1, 9) i; insert into ident select i, i from generate_series(1, 9) i;"
        "insert into parent select i, 'c' || i from generate_series(1, 9) i; insert into child select i, 'c' || i, i from generate_series(1, 9) i;"
        "insert into leaves select i, i % 30, i from generate_series(1, 90) i; insert into keyless values (1, 1), (null, 2)")
    assert routings(m)["public.leaves_2a"] == "key, built at the end: leaves_day_v_key, by_day"
    m.run_until("caught-up")
    wanted = catalog(m.source)
    for db in m.targets():
        assert catalog(db) == wanted
        assert_equal(m.source, db)
        assert db.value("select state from foreshadow.schemas") == "complete"
    assert "leaves_day_v_key" in str(wanted) and "fillfactor" in str(wanted) and "child_code_fkey" in str(wanted)
    # goes on: nothing that came late is in the way
    m.start()
    m.source.execute("update parent set code2 = code; update child set code = null; update parent set code = 'x' || id;"
                     "update parent set code = code2; update leaves set v = -v where day < 20; update ident set b = b + 100; update ident set b = 110 - b")
    assert_follows(m)
    for db in m.targets():
        assert unique_indexes(db) == {"ident_a", "keyless_a_key"}
        assert db.value("select count(*) from pg_constraint where contype = 'f' and conparentid = 0") == 1
        assert db.value("select state from foreshadow.schemas") == "finished"
    m.stop()
    m.run_until("caught-up")
    for db in m.targets():
        assert catalog(db) == wanted
        assert_equal(m.source, db)


def catalog(db):
    """Indexes and constraints of the public tables, as the server writes them."""
    return db.sql("select i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), indisvalid, indimmediate,"
                  " (select h.inhparent::regclass::text from pg_inherits h where h.inhrelid = i.indexrelid)"
                  " from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace = 'public'::regnamespace"
                  " union all select conrelid::regclass || '.' || conname, pg_get_constraintdef(oid), convalidated, condeferred, contype::text"
                  " from pg_constraint where connamespace = 'public'::regnamespace and contype <> 'n' order by 1, 2")


def test_duplicates_stop_the_end_and_the_next_run_builds(migration):
    m = migration()
    m.source.execute("create table t (id int primary key, u int unique, w int unique); insert into t values (1, 1, 1), (2, 2, 2)")
    m.start()
    wait_live(m)
    m.target.execute("insert into t values (7, 2, 7)")
    m.stop()
    process = m.start(args=["--until", "caught-up"])
    assert process.wait(60) == 3
    assert "unique index t_u_key of public.t cannot be built" in process.log()
    assert "(u)=(2) is duplicated" in process.log() and "remove the duplicates on the target" in process.log()
    assert unique_indexes(m.shadow) == {"t_u_key", "t_w_key"}
    assert m.target.value("select state from foreshadow.schemas") == "finished"
    m.target.execute("delete from t where id = 7")
    m.run_until("caught-up")
    for db in m.targets():
        assert unique_indexes(db) == {"t_u_key", "t_w_key"}
        assert_equal(m.source, db)


def test_unique_cannot_change_in_mid_migration(migration):
    m = migration()
    m.source.execute(SWAPS)
    m.run_until("caught-up")
    m.write({**m.config, "unique": "early"})
    for role in (None, "ingest", "primary"):
        process = m.start(role=role)
        assert process.wait(30) == 3
        assert "unique is early, but this migration began with late" in process.log()


ONLY_THERE = ("create table plain (id int primary key, u int not null, v text default 'v');"
              "create table ranges (id int primary key, r int4range not null, v text);"
              "create table parent (id int primary key); create table child (id int primary key, parent int);")


def swap_directly(db, seed, transactions=100):
    rng = random.Random(seed)
    with db.connect() as c:
        for _ in range(transactions):
            a, b = rng.sample(range(1, 41), 2)
            with c.transaction():
                c.execute("select 1")
                (x,), (y,) = (c.execute("select u from plain where id = %s", (i,)).fetchone() for i in (a, b))
                if rng.random() < 0.5:
                    c.execute("update plain set u = -1 where id = %s", (a,))
                c.execute("update plain set u = %s, v = %s where id = %s", (x, f"v{rng.random()}", b))
                c.execute("update plain set u = %s where id = %s", (y, a))
                (x,), (y,) = (c.execute("select r::text from ranges where id = %s", (i,)).fetchone() for i in (a, b))
                c.execute("update ranges set r = %s where id = %s", (y, a))
                c.execute("update ranges set r = %s where id = %s", (x, b))
        c.execute("update plain set u = 41 - u; update ranges set r = int4range(1000 - lower(r), 1009 - lower(r))")


def test_constraints_that_only_a_target_has(migration, rng):
    """Nothing of it is on the source: so values change places there as they like."""
    m = migration(schema="exists", create_shadow=True, shadow=None, lanes=4)
    m.source.execute(ONLY_THERE + "insert into plain select i, i from generate_series(1, 40) i;"
                     "insert into ranges select i, int4range(i * 10, i * 10 + 9) from generate_series(1, 40) i;"
                     "insert into parent values (1); insert into child values (1, 1)")
    for db in m.targets():
        db.execute(ONLY_THERE)
    m.target.execute("create unique index plain_u on plain (u); alter table child add foreign key (parent) references parent")
    m.shadow.execute("alter table ranges add exclude using gist (r with &&)")
    items = m.json("check")["items"]
    routing = routings(m)
    assert routing["public.plain"] == 'table: the primary target has a further unique index: "plain_u"'
    assert routing["public.ranges"] == 'table: the shadow target has a further exclusion index: "ranges_r_excl"'
    assert routing["public.child"] == "key"
    keys = [item["text"] for item in items if item["object"] == "foreign key"]
    assert len(keys) == 1 and 'foreign key "child_parent_fkey"' in keys[0] and "validated at the end" in keys[0]
    m.start()
    wait_live(m)
    swap_directly(m.source, rng.random())
    m.source.execute("alter table plain add w int")     # the next version is routed as the one before
    for db in m.targets():
        db.execute("alter table plain add w int")
    swap_directly(m.source, rng.random())
    assert_follows(m)
    assert "stopped in front of" not in m.log()
    m.stop()
    process = m.run_until("caught-up")
    assert "foreign key holds name=child_parent_fkey table=public.child seconds=" in process.log()
    m.start()
    wait_live(m)
    m.source.execute("update child set parent = 5")
    assert_follows(m)
    m.stop()
    process = m.start(args=["--until", "caught-up"])
    assert process.wait(60) == 3
    assert "foreign key child_parent_fkey of public.child does not hold" in process.log()


def test_an_index_made_by_hand_in_mid_migration_is_warned_of(migration):
    m = migration(unique="late")
    m.source.execute("create table t (id int primary key, u int); insert into t values (1, 1)")
    m.start()
    wait_live(m)
    m.stop()
    m.target.execute("create unique index by_hand on t (u)")
    m.start()
    wait_live(m)
    m.source.execute("update t set u = 2")
    assert_follows(m)
    log = m.log()
    assert "public.t on the primary has a further unique or exclusion index public.by_hand" in log
    assert "DROP INDEX public.by_hand" in log and "on the shadow has a further" not in log


def test_the_last_process_of_a_role_builds(migration):
    m = migration()
    m.source.execute("create table t (id int primary key, u int unique); insert into t select i, i from generate_series(1, 9) i")
    first = m.start()
    wait_live(m)
    other = m.start(role="primary", instance="b")
    m.target.poll("select count(distinct owner_instance) from foreshadow.progress", 2)
    first.signal(15)
    assert first.wait(60) == 0
    process = m.run_until("caught-up")
    assert "the primary: instance b goes on, and builds what comes late" in process.log()
    assert unique_indexes(m.shadow) == {"t_u_key"} and unique_indexes(m.target) == set()
    other.signal(15)
    assert other.wait(60) == 0
    m.run_until("caught-up")
    assert unique_indexes(m.shadow) == unique_indexes(m.target) == {"t_u_key"}
    roles = {role["role"]: role["schema"] for role in m.json("status")["roles"]}
    assert roles == {"shadow": "complete", "primary": "complete"}
