# SPDX-License-Identifier: Apache-2.0
"""Foreign keys on targets whose role may, or may not, set session_replication_role."""
import json
import random
import threading

import psycopg
import pytest

from conftest import merged
from following import assert_balanced, assert_follows, wait_caught_up, wait_live
from rig import assert_equal, wait_until

GRANT = "grant set on parameter session_replication_role to"

FAMILIES = """
create table a (id int primary key, b int not null, v text);
create table b (id int primary key, a int not null references a on delete cascade deferrable initially deferred, v text);
alter table a add foreign key (b) references b on delete cascade deferrable initially deferred;
create table tree (id int primary key, parent int references tree on delete cascade, v text);
create table orders (id int primary key, code text not null, v text);
create table items (ord int references orders on update cascade on delete cascade, n int, v text, primary key (ord, n));
create table parts (id int primary key, ord int, n int, foreign key (ord, n) references items on update cascade on delete cascade);
create table notes (id int primary key, ord int references orders on update cascade on delete set null, v text);
create table marks (ord int references orders on delete cascade, v text);
alter table marks replica identity full;
create table chain1 (id int primary key, v text);
create table chain2 (id int primary key, up int not null references chain1, v text);
create table chain3 (id int primary key, up int not null references chain2, v text);
create table free (id int primary key, v text, big text);
alter table free alter column big set storage external;
"""

ROWS = """
begin; insert into a select i, i from generate_series(1, 50) i; insert into b select i, i from generate_series(1, 50) i; commit;
insert into tree select i, nullif(i / 2, 0) from generate_series(1, 100) i;
insert into orders select i, 'c' || i from generate_series(1, 60) i;
insert into items select i, n from generate_series(1, 60) i, generate_series(1, 3) n;
insert into parts select i * 10 + n, i, n from generate_series(1, 60) i, generate_series(1, 3) n;
insert into notes select i, 1 + i % 60 from generate_series(1, 100) i;
insert into marks select 1 + i % 60, 'm' from generate_series(1, 100) i;
insert into chain1 select i from generate_series(1, 40) i;
insert into chain2 select i, 1 + i % 40 from generate_series(1, 80) i;
insert into chain3 select i, 1 + i % 80 from generate_series(1, 160) i;
insert into free select i, 'v', repeat('x', 5000) from generate_series(1, 50) i;
"""

FAMILY = {"a": "public.a", "b": "public.a", "tree": "public.tree", "orders": "public.items", "items": "public.items",
          "parts": "public.items", "notes": "public.items", "marks": "public.items", "chain1": "public.chain1",
          "chain2": "public.chain1", "chain3": "public.chain1", "free": None}


def as_role(m, right):
    """The target's database belongs to a role without further rights; the migration runs there as it."""
    role = "fk_may" if right else "fk_may_not"
    admin = m.target.server
    if not admin.value("select exists (select from pg_roles where rolname = %s)", role):
        admin.execute(f"create role {role} login createdb")
        if right:
            admin.execute(f"{GRANT} {role}")
    admin.execute(f'alter database "{m.target.name}" owner to {role}')
    m.write(merged(m.config, {"target": {"uri": m.target.uri(user=role)}}))
    return role


def new(migration, right, schema=FAMILIES + ROWS, **config):
    m = migration(**config)
    m.source.execute(schema)
    as_role(m, right)
    return m


def routings(m):
    """Name of each table -> its routing and why, as check prints it."""
    items = json_items(m)
    tables = [item["text"] for item in items if item["object"] == "table" and " -> " in item["text"]]
    return {text.split(" -> ")[0].removeprefix("public."): text.split(", routing ")[1] for text in tables}


def json_items(m):
    return json.loads(m.run_cli("check", "--json").stdout)["items"]


class Session(threading.Thread):
    """Random transactions on the families; one that the source refuses is rolled back."""

    def __init__(self, db, seed):
        super().__init__(daemon=True)
        self.db, self.rng = db, random.Random(seed)
        self.done = self.refused = 0
        self.is_over = threading.Event()
        self.start()

    def run(self):
        with self.db.connect() as connection:
            while not self.is_over.is_set():
                try:
                    with connection.transaction():
                        for _ in range(self.rng.randint(1, 4)):
                            connection.execute(self.statement())
                    self.done += 1
                except (psycopg.errors.IntegrityError, psycopg.errors.DeadlockDetected):
                    self.refused += 1

    def statement(self):
        rng = self.rng
        x, y, z = rng.randint(1, 120), rng.randint(1, 120), rng.randint(1, 1_000_000)
        return rng.choice([
            f"insert into b values ({x}, {x}, 'n'); insert into a values ({x}, {x}, 'n')",
            f"insert into a values ({x}, {y}, 'n'); insert into b values ({y}, {x}, 'n')",
            f"update a set b = {y} where id = {x}",
            f"delete from a where id = {x}",
            f"update b set v = 'z{z}' where a = {x}",
            f"insert into tree values ({x}, (select max(id) from tree where id < {x}))",
            f"update tree set parent = {y} where id = {x} and {y} < {x}",
            f"delete from tree where id = {x}",
            f"insert into orders values ({x}, 'n'); insert into items select {x}, n from generate_series(1, 3) n;"
            f"insert into parts select {x} * 10 + n, {x}, n from generate_series(1, 3) n; insert into marks values ({x}, 'n')",
            f"update orders set id = {y} where id = {x}",
            f"update orders set id = id + 1000 where id between {x} and {x + 3};"
            f"update orders set id = id - 1000 where id between {x + 1000} and {x + 1003}",
            f"delete from orders where id = {x}",
            f"delete from orders where id in ({x}, {y}); insert into orders values ({x}, 'again')",
            f"update items set n = n + 10, v = 'z{z}' where ord = {x}",
            f"update items set n = n - 10 where ord = {x} and n > 10",
            f"delete from items where ord = {x} and n = 2",
            f"update notes set ord = {y} where id = {x}",
            f"update parts set id = -id where ord = {x}",
            f"delete from marks where ord = {x}",
            f"insert into chain1 values ({x}); insert into chain2 values ({x + 200}, {x}); insert into chain3 values ({z}, {x + 200})",
            f"delete from chain3 where up = {y}; delete from chain2 where id = {y}",
            f"update chain1 set id = {z} where id = {x}",
            f"update chain2 set up = {y}, v = 'z{z}' where id = {x}",
            f"update free set v = 'z{z}' where id = {x}",
            f"update free set id = {x + 1000} where id = {x}; update free set id = {x} where id = {x + 1000}",
        ])

    def end(self):
        self.is_over.set()
        self.join(60)


def work(m, rng, sessions=4, transactions=400, in_between=None):
    threads = [Session(m.source, rng.random()) for _ in range(sessions)]
    for goal in ([transactions // 2, transactions] if in_between else [transactions]):
        wait_until(lambda: sum(t.done for t in threads) >= goal and all(t.is_alive() for t in threads), 120,
                   lambda: f"{goal} transactions; {[(t.done, t.refused, t.is_alive()) for t in threads]}")
        if in_between and goal < transactions:
            in_between()
    for thread in threads:
        thread.end()


def assert_no_incident(m):
    log = m.log()
    assert "-> stopped" not in log


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("order", ["key", "transaction"])
def test_families(migration, rng, right, order):
    """Cycles, cascades, chains, deferred and not, under load from several sessions, and a kill -9."""
    m = new(migration, right, order=order)
    routing = routings(m)
    for table, family in FAMILY.items():
        expected = "transaction" if order == "transaction" else "group" if family and not right else "table" if table == "marks" else "key"
        assert routing[table].split(":")[0] == expected, table
        if expected == "group":
            assert f"family {family} of " in routing[table] and "may not set session_replication_role" in routing[table]
    m.start()
    wait_live(m)

    def kill():
        m.kill9()
        m.start()
    work(m, rng, in_between=kill)
    m.source.execute("truncate orders cascade; insert into orders select i, 'x' from generate_series(1, 20) i;"
                     "insert into items select i, 1 from generate_series(1, 20) i")
    m.source.execute("begin; insert into b values (9001, 9002); insert into a values (9002, 9001); truncate tree; commit")
    work(m, rng, transactions=100)
    assert_follows(m, timeout=60)
    for db in m.targets():
        assert_balanced(m, db)
        keys = db.value("select count(*) from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace")
        assert keys == m.source.value("select count(*) from pg_constraint where contype = 'f'")
    assert_no_incident(m)
    m.stop()


def test_actions_of_the_target_are_met_by_the_changes_that_follow(migration):
    """Keys that move up by one, cascades of three levels, a transaction of several rounds, events of other tables inside."""
    m = new(migration, False, FAMILIES + "insert into orders select 100 - i, 'c' from generate_series(1, 50) i;"
            "insert into items select id, n from orders, generate_series(1, 3) n; insert into parts select ord * 10 + n, ord, n from items;"
            "insert into free select i, 'v', repeat('x', 5000) from generate_series(1, 50) i;"
            "insert into notes select id, id from orders; alter table marks drop constraint marks_ord_fkey, add constraint marks_ord_fkey"
            " foreign key (ord) references orders on delete cascade deferrable")
    m.start()
    wait_live(m)
    m.source.execute("update orders set id = id + 1")
    m.source.execute("update orders set id = id + 1; update items set n = n + 3; delete from orders where id between 60 and 70")
    m.source.execute("insert into orders select i, 'large' from generate_series(1000, 1009) i;"
                     "insert into items select i, n from generate_series(1000, 1009) i, generate_series(1, 600) n")
    m.source.execute("update orders set id = id + 1000 where id >= 1000")
    m.source.execute("insert into marks select i, 'm' from generate_series(2000, 2009) i, generate_series(1, 100)")
    m.source.execute("begin; delete from orders where id >= 2000; insert into orders values (2000, 'again');"
                     "insert into items values (2000, 1); commit")
    # Each stands in all partitions, in the middle of a transaction of the families.
    m.source.execute("begin; insert into a values (1, 1); insert into b values (1, 1); update free set id = id + 500 where id <= 10;"
                     "delete from a; commit")
    m.source.execute("begin; delete from orders where id = 71; truncate free; insert into orders values (71, 'again');"
                     "insert into free values (1, 'v', 'x'); delete from orders where id = 72; commit")
    for db in [m.source, *m.targets()]:
        db.execute("alter table items add column w int")
    m.source.execute("begin; update items set w = 1 where ord < 90; delete from orders where id = 73; commit")
    assert_follows(m)
    for db in m.targets():
        assert_balanced(m, db)
    assert_no_incident(m)
    m.stop()


@pytest.mark.parametrize("large", [False, True])
def test_a_row_that_is_missing_for_another_reason_is_reported(migration, large):
    m = new(migration, False)
    process = m.start()
    wait_live(m)
    m.target.execute("delete from items where ord in (1, 2)")
    # Its parent stays; another one goes in another transaction, and one of another table in the same.
    more = "update notes set v = 'x'; update notes set v = 'y'" if not large else "insert into notes select i from generate_series(1000, 7000) i"
    m.source.execute("delete from orders where id = 3")
    m.source.execute(f"begin; delete from chain3 where id = 1; {more}; delete from items where ord = 1 and n = 1; commit")
    process.wait_log("-> stopped", 60)
    assert "public.items delete: 0 rows, expected 1" in m.log()
    assert m.target.value("select count(*) from orders where id = 3") == 0
    assert m.target.value("select count(*) from chain3 where id = 1") == 1   # the transaction stays whole
    wait_caught_up(m, [m.shadow])
    assert m.shadow.value("select count(*) from items where ord = 1") == m.source.value("select count(*) from items where ord = 1")


def test_a_rekey_of_a_missing_row_is_reported(migration):
    m = new(migration, False)
    process = m.start()
    wait_live(m)
    m.target.execute("delete from items where ord = 1")
    m.source.execute("begin; delete from marks where ord = 2; update orders set id = 900 where id = 2; update items set n = n + 50 where ord = 1; commit")
    process.wait_log("-> stopped", 60)
    assert "public.items key change: 0 rows, expected 1" in m.log()


def test_rows_that_hold_only_together_go_on_when_the_key_is_deferrable(migration):
    """One statement deletes parents and children: its changes are in no order that each of them holds in."""
    m = new(migration, False)
    process = m.start()
    wait_live(m)
    m.source.execute("with gone as (delete from chain1 where id = 40 returning id), up as (delete from chain2 where up = 40 returning id)"
                     " delete from chain3 where up in (select id from up)")
    # The foreign key is checked at the end of that statement, which sees neither.
    process.wait_log("-> stopped", 60)
    assert "violates foreign key constraint" in m.log()
    m.stop()
    for db in m.targets():
        db.execute("alter table chain2 alter constraint chain2_up_fkey deferrable; alter table chain3 alter constraint chain3_up_fkey deferrable")
    m.start()
    assert_follows(m)


FIRING = ("create table log (id serial primary key, what text);"
          "create function note() returns trigger language plpgsql as $$ begin insert into public.log (what) values (tg_op);"
          " return new; end $$;"
          "create table fired (id int primary key, v int); create trigger watch after insert or update on fired"
          " for each row execute function note();"
          "create trigger never after insert on fired for each row execute function note(); alter table fired disable trigger never;"
          "create table ruled (id int primary key, v int);"
          "create rule watch as on update to ruled do also insert into public.log (what) values ('rule');")


def firing(db):
    return db.sql("select tgname, tgenabled from pg_trigger where tgrelid = 'fired'::regclass"
                  " union select rulename, ev_enabled from pg_rewrite where ev_class = 'ruled'::regclass order by 1, 2")


@pytest.mark.parametrize("right", [True, False])
def test_triggers_and_rules_come_at_the_end(migration, right):
    """They would do again what the source's did."""
    m = new(migration, right, FIRING)
    for turn in range(2):
        m.start()
        wait_live(m)
        # A run that goes on takes them back first.
        wait_until(lambda: all(bool(firing(db)) == right for db in m.targets()), 60, lambda: str([firing(db) for db in m.targets()]))
        m.source.execute(f"insert into fired values ({turn}, 1); update fired set v = 2; insert into ruled values ({turn}, 1);"
                         "update ruled set v = 2")
        assert_follows(m)
        m.stop()
        m.run_until("caught-up")
        for db in m.targets():
            assert firing(db) == firing(m.source), db
    assert ("late trigger taken back" in m.log()) == (not right)


def test_what_would_fire_is_refused(migration):
    m = migration(schema="exists", create_shadow=True, shadow=None)
    m.source.execute(FIRING + "create table up (id int primary key); create table down (id int primary key, up int);"
                     "insert into fired values (1, 1)")
    as_role(m, False)
    for db in m.targets():
        db.execute(f'alter database "{db.name}" owner to fk_may_not')
        with psycopg.connect(db.uri(user="fk_may_not"), autocommit=True) as c:
            c.execute(FIRING + "create table up (id int primary key); create table down (id int primary key, up int)")
    m.target.execute("alter table down add foreign key (up) references up")
    result = m.run_cli("check")
    assert result.returncode == 3
    assert "GRANT SET ON PARAMETER session_replication_role TO \"fk_may_not\"" in result.stdout
    for words in ("ALTER TABLE public.fired DISABLE TRIGGER watch", "ALTER TABLE public.ruled DISABLE RULE watch",
                  "ALTER TABLE public.down DROP CONSTRAINT down_up_fkey"):
        assert words in result.stdout
    assert "never" not in result.stdout
    process = m.start()
    assert process.wait(60) == 3
    assert "ALTER TABLE public.fired DISABLE TRIGGER watch" in process.log()
    for db in m.targets():
        db.execute("alter table fired disable trigger watch; alter table ruled disable rule watch")
    m.target.execute("alter table down drop constraint down_up_fkey")
    m.run_until("caught-up")
    for db in m.targets():
        assert_equal(m.source, db)


def test_a_right_that_comes_and_goes(migration, rng):
    """With it, a family's partition is applied as replica; without it, what was routed by key is refused."""
    m = new(migration, False)
    admin = m.target.server
    m.start()
    wait_live(m)
    m.stop()
    admin.execute(f"{GRANT} fk_may_not")
    try:
        m.start()
        wait_live(m)
        work(m, rng, transactions=50)
        assert_follows(m)
        m.stop()
        other = new(migration, False)
        assert routings(other)["items"].startswith("key")
        other.start()
        wait_live(other)
        other.stop()
    finally:
        admin.execute("revoke set on parameter session_replication_role from fk_may_not")
    m.start()
    work(m, rng, transactions=50)
    assert_follows(m)
    other.start()
    other.source.execute("delete from orders where id = 1")
    wait_until(lambda: "migration began with routing key for it: GRANT SET ON PARAMETER" in other.log(), 60, other.tail)


def test_a_keyless_table_whose_rows_a_key_changes_is_refused(migration):
    m = new(migration, False, "create table up (id int primary key); create table down (up int references up on update cascade);"
            "alter table down replica identity full")
    result = m.run_cli("check")
    assert result.returncode == 3 and 'public.down has no key, and foreign key "down_up_fkey" changes its rows' in result.stdout
    process = m.start()
    assert process.wait(60) == 3
    assert 'foreign key "down_up_fkey" changes its rows' in process.log()
