# SPDX-License-Identifier: Apache-2.0
"""schema: create through a mapping: what the targets' tables, columns, keys, indexes and foreign keys become."""
import pytest

from following import wait_live
from rig import wait_until

SOURCE = """
    create schema a; create schema b; create schema old; create schema parts;
    create type mood as enum ('sad', 'ok', 'happy');
    create sequence numbers;
    create function touch() returns trigger language plpgsql as $$ begin return new; end $$;

    create table customers (id serial primary key, name varchar(40) not null, feels mood not null default 'ok');
    create table orders (
        id int generated always as identity primary key, cust int not null references customers on delete cascade,
        qty int not null default 1 check (qty > 0), total_cents bigint not null, note text,
        secret text constraint no_secret check (secret <> ''), status varchar(10) not null default 'new',
        twice int generated always as (qty * 2) stored);
    alter table orders drop column twice;
    alter table orders replica identity full;
    create index orders_cust_idx on orders (cust, qty);
    create index orders_note_idx on orders (note);
    create unique index orders_once on orders (status, id) where qty > 10;
    create trigger touched before update of qty on orders for each row when (new.cust <> old.cust) execute function touch();
    create table lines (order_id int references orders, no smallint, primary key (order_id, no));

    create table events (id int, day int, kind varchar(9) not null, amount int, primary key (id, day)) partition by range (day);
    create table events_1 partition of events for values from (0) to (10);
    create table parts.events_2 partition of events for values from (10) to (20);
    create index on events (kind);

    create table old.x (id int primary key, p int, q text);
    create table old.y (id int primary key, v text);

    create table a.items (id int primary key, customer int references customers, v text);
    create table b.items (id int primary key, customer int references customers, v text);
    create table a.boxes (id serial primary key, v text);
    create table b.boxes (id serial primary key, v text);

    insert into customers (name) select 'c' || i from generate_series(1, 5) i;
    insert into orders (cust, qty, total_cents, note, secret)
        select 1 + i % 5, i, i * 12345, 'n' || i, 's' || i from generate_series(1, 40) i;
    insert into lines select i, 1 from generate_series(1, 40) i;
    insert into events select i, i % 20, 'k' || i % 3, i from generate_series(1, 60) i;
    insert into old.x select i, i, 'q' || i from generate_series(1, 9) i;
    insert into old.y select i, 'y' || i from generate_series(1, 9) i;
    insert into a.items select i, 1, 'a' || i from generate_series(1, 9) i;
    insert into b.items select i, 2, 'b' || i from generate_series(1, 9) i;
    insert into a.boxes (v) select 'a' || i from generate_series(1, 9) i;
    insert into b.boxes (v) select 'b' || i from generate_series(1, 9) i;
"""

MAPPING = [
    {"from": "public.orders", "to": "sales.orders",
     "columns": {"cust": "customer_id", "note": None, "qty": {"to": "quantity", "type": "bigint"},
                 "secret": {"to": None}, "status": {"to": "status", "type": "text"}}},
    {"from": "public.customers", "to": "sales.clients", "columns": {"id": {"to": "id", "type": "bigint"}}},
    {"from": "public.events", "to": "sales.happenings", "columns": {"kind": {"to": "sort", "type": "text"}, "amount": None}},
    {"from": "public.*", "to": "sales.*"},
    {"from": "old.x", "to": "old.y", "columns": {"p": "q", "q": "p"}},
    {"from": "old.y", "to": "old.x"},
    {"from": "b.items", "to": "public.items", "origin": {"column": "shop", "value": "us"}},
    {"from": "a.items", "to": "public.items", "origin": {"column": "shop", "value": "eu"}},
    {"from": "a.boxes", "to": "sales.boxes_a"},
    {"from": "b.boxes", "to": "sales.boxes_b"},
]
RULES = [
    {"table": "sales.orders", "column": "total", "type": "numeric(12,2)", "as": "round(total_cents / 100.0, 2)"},
    {"table": "sales.clients", "column": "name", "type": "text", "as": "upper(name)"},
    {"table": "sales.orders", "where": "id <> 3"},
    {"table": "sales.lines", "where": "order_id <> 3"},
]
# What a target must have, as the source says it: the target's table, and the source's query.
ROWS = {
    "sales.orders": "select id, cust, qty::bigint, total_cents, status::text, round(total_cents / 100.0, 2)::numeric(12,2) from orders where id <> 3",
    "sales.clients": "select id, upper(name), feels::text from customers",
    "sales.lines": "select * from lines where order_id <> 3",
    "sales.happenings": "select id, day, kind::text from events",
    "old.y": "select id, p, q from old.x",
    "old.x": "select * from old.y",
    "public.items": "select id, customer, v, 'eu' from a.items union all select id, customer, v, 'us' from b.items",
    "sales.boxes_a": "select * from a.boxes",
    "sales.boxes_b": "select * from b.boxes",
}
READ = dict({name: f"select * from {name}" for name in ROWS},
            **{"sales.clients": "select id, name, feels::text from sales.clients"})


def mapped(migration, mapping=None, rules=None, **config):
    return migration(schema_mapping=MAPPING if mapping is None else mapping,
                     transformation_rules=RULES if rules is None else rules,
                     tables={"include": ["public.*", "a.*", "b.*", "old.*"]}, **config)


def columns(db, table):
    return dict(db.sql("""
        select attname, format_type(atttypid, atttypmod) || case when attnotnull then ' not null' else '' end
            || case attidentity when '' then '' else ' identity' end
        from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped""", table))


def constraints(db, table):
    return dict(db.sql("select conname, pg_get_constraintdef(oid) from pg_constraint"
                       " where conrelid = %s::regclass and contype <> 'n'", table))


def indexes(db, table):
    return dict(db.sql("select x.relname, pg_get_indexdef(x.oid) from pg_index i join pg_class x on x.oid = i.indexrelid"
                       " where i.indrelid = %s::regclass", table))


def tables(db):
    return {f"{schema}.{name}" for schema, name in db.sql(
        "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema', 'foreshadow')")}


def scratch_databases(m):
    return m.target.server.sql("select datname from pg_database where datname like %s", f"foreshadow\\_{m.name}\\_scratch%")


def assert_rows(m):
    for db in m.targets():
        for table, query in ROWS.items():
            assert sorted(m.source.sql(query)) == sorted(db.sql(READ[table])), f"{table} on {db}"


def assert_shape(db):
    assert tables(db) == set(ROWS) | {"sales.events_1", "parts.events_2"}
    assert columns(db, "sales.orders") == {
        "id": "integer not null identity", "customer_id": "integer not null", "quantity": "bigint not null",
        "total_cents": "bigint not null", "status": "text not null", "total": "numeric(12,2)"}
    assert columns(db, "sales.clients") == {"id": "bigint not null", "name": "text not null", "feels": "mood not null"}
    assert constraints(db, "sales.orders") == {
        "orders_pkey": "PRIMARY KEY (id)", "orders_qty_check": "CHECK ((quantity > 0))",
        "orders_cust_fkey": "FOREIGN KEY (customer_id) REFERENCES sales.clients(id) ON DELETE CASCADE"}
    assert set(indexes(db, "sales.orders")) == {"orders_pkey", "orders_cust_idx", "orders_once"}
    assert indexes(db, "sales.orders")["orders_cust_idx"].endswith("(customer_id, quantity)")
    assert indexes(db, "sales.orders")["orders_once"].endswith("(status, id) WHERE (quantity > 10)")
    assert db.value("select pg_get_triggerdef(oid) from pg_trigger where tgname = 'touched'") == (
        "CREATE TRIGGER touched BEFORE UPDATE OF quantity ON sales.orders FOR EACH ROW"
        " WHEN ((new.customer_id <> old.customer_id)) EXECUTE FUNCTION touch()")
    assert constraints(db, "sales.lines")["lines_order_id_fkey"] == "FOREIGN KEY (order_id) REFERENCES sales.orders(id)"
    # the serial's sequence moved along and has become as large as its column
    assert db.value("select pg_get_serial_sequence('sales.clients', 'id')") == "sales.customers_id_seq"
    assert db.value("select seqtypid::regtype::text from pg_sequence where seqrelid = 'sales.customers_id_seq'::regclass") == "bigint"
    assert db.value("select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = 'sales.clients'::regclass and adnum = 1"
                    ) == "nextval('sales.customers_id_seq'::regclass)"
    assert db.value("select pg_get_expr(adbin, adrelid) from pg_attrdef d join pg_attribute a on attrelid = adrelid and attnum = adnum"
                    " where adrelid = 'sales.orders'::regclass and attname = 'quantity'") == "1"
    assert db.value("select to_regclass('sales.numbers') is not null")
    # partitions
    assert db.value("select count(*) from pg_partition_tree('sales.happenings') where parentrelid is not null") == 2
    for leaf in ("sales.events_1", "parts.events_2", "sales.happenings"):
        assert columns(db, leaf) == {"id": "integer not null", "day": "integer not null", "sort": "text not null"}
        assert len(indexes(db, leaf)) == 2
    # swaps
    assert columns(db, "old.y") == {"id": "integer not null", "q": "integer", "p": "text"}
    assert columns(db, "old.x") == {"id": "integer not null", "v": "text"}
    # merged
    assert columns(db, "public.items") == {"id": "integer not null", "customer": "integer", "v": "text", "shop": "text not null"}
    assert constraints(db, "public.items") == {
        "items_pkey": "PRIMARY KEY (shop, id)", "items_customer_fkey": "FOREIGN KEY (customer) REFERENCES sales.clients(id)"}
    # one name that two tables bring along
    assert set(indexes(db, "sales.boxes_a")) | set(indexes(db, "sales.boxes_b")) == {"boxes_pkey", "boxes_pkey_1"}
    assert {db.value("select pg_get_serial_sequence(%s, 'id')", t) for t in ("sales.boxes_a", "sales.boxes_b")
            } == {"sales.boxes_id_seq", "sales.boxes_id_seq_1"}
    # types stay, schemas that nothing is left in do not come along
    assert {name for name, in db.sql("select nspname from pg_namespace where nspname in ('a', 'b', 'old', 'parts', 'sales')")
            } == {"old", "parts", "sales"}


def test_tables_are_what_the_mapping_says(migration):
    m = mapped(migration)
    m.source.execute(SOURCE)
    m.run_until()
    for db in m.targets():
        assert_shape(db)
    assert_rows(m)
    for role in ("shadow", "primary"):
        for lost in ("index public.orders_note_idx", "table constraint no_secret on public.orders"):
            assert m.log().count(f"schema of the {role}: {lost} goes with a column") == 1, m.log()
    assert not scratch_databases(m)
    m.source.execute("update orders set qty = 99 where id = 5; delete from b.items where id = 2; update customers set name = 'new' where id = 1;"
                     "insert into orders (cust, qty, total_cents) values (2, 1, 199); insert into events values (100, 15, 'late', 1);"
                     "update old.x set p = 77, q = 'changed' where id = 4; insert into a.boxes (v) values ('another')")
    m.run_until()
    assert_rows(m)


# ---- crashes, and several at once ----

SMALL = """
    create table orders (id serial primary key, cust int, note varchar(9)); create index on orders (cust);
    insert into orders (cust, note) select i, 'n' || i from generate_series(1, 9) i"""
SMALL_MAPPING = [{"from": "public.orders", "to": "sales.bills", "columns": {"cust": "customer", "note": {"to": "note", "type": "text"}}}]


def assert_small(m):
    for db in m.targets():
        assert tables(db) == {"sales.bills"}
        assert columns(db, "sales.bills") == {"id": "integer not null", "customer": "integer", "note": "text"}
        assert set(indexes(db, "sales.bills")) == {"orders_pkey", "orders_cust_idx"}
        assert sorted(m.source.sql("select * from orders")) == sorted(db.sql("select * from sales.bills"))
    assert not scratch_databases(m)


@pytest.mark.parametrize("point", ["schema.reshaped=crash", "schema.reshaped=crash@2", "schema.restored=crash", "schema.reshaped=crash@3"])
def test_killed_while_tables_are_made(migration, point):
    """Dead with the scratch database there (of the shadow, the primary, the second stage), or between two stages; then again."""
    m = mapped(migration, SMALL_MAPPING, [])
    m.source.execute(SMALL)
    process = m.start(env={"FORESHADOW_FAILPOINTS": point})
    assert process.wait(60) == -9
    assert len(scratch_databases(m)) >= (point != "schema.restored=crash")
    m.run_until()
    assert_small(m)


def test_two_roles_at_once(migration):
    m = mapped(migration, SMALL_MAPPING, [])
    m.source.execute(SMALL)
    for role in ("ingest", "shadow", "primary"):
        m.start(role=role)
    wait_live(m)
    for db in m.targets():
        db.poll("select state from foreshadow.schemas", "finished")
    wait_until(lambda: not scratch_databases(m), 30, lambda: f"no scratch database\n{m.tail()}")
    m.stop()
    assert_small(m)


def test_drop_takes_a_left_scratch_database(migration):
    m = mapped(migration, SMALL_MAPPING, [])
    m.source.execute(SMALL)
    process = m.start(env={"FORESHADOW_FAILPOINTS": "schema.reshaped=crash"})
    assert process.wait(60) == -9
    (name,), = scratch_databases(m)
    result = m.run_cli("drop", "--yes")
    assert result.returncode == 0 and name in result.stdout, result.stdout + result.stderr
    assert not scratch_databases(m)


def test_a_database_that_is_somebody_else_s_stays(migration):
    m = mapped(migration, SMALL_MAPPING, [])
    m.source.execute(SMALL)
    foreign = m.target.server.createdb(f"foreshadow_{m.name}_scratch_p")
    foreign.execute("create table precious (id int)")
    process = m.start(args=["--until", "caught-up"])
    assert process.wait(60) == 3
    assert "is in the way" in process.log()
    assert m.run_cli("drop", "--yes").returncode == 0
    assert foreign.value("select to_regclass('public.precious') is not null")
    foreign.drop()
    # an empty one without a word: a crash between two statements of ours
    m.target.server.createdb(f"foreshadow_{m.name}_scratch_p")
    m.run_until()
    assert_small(m)


# ---- what a file may ask for, one by one ----

SHAPES = {
    "default_without_a_cast": (
        "create table t (id int primary key, v text default 'abc')",
        [{"from": "public.t", "to": "public.t", "columns": {"v": {"to": "v", "type": "int"}}}], [],
        "select format_type(a.atttypid, null) || a.atthasdef from pg_attribute a where attrelid = 'public.t'::regclass and attname = 'v'",
        "integerfalse"),
    "identity_as_text": (
        "create table t (id int generated always as identity primary key, v text)",
        [{"from": "public.t", "to": "public.t", "columns": {"id": {"to": "id", "type": "text"}}}], [],
        "select format_type(a.atttypid, null) || a.attidentity::text from pg_attribute a where attrelid = 'public.t'::regclass and attname = 'id'",
        "text"),
    "identity_grows": (
        "create table t (id int generated always as identity primary key, v text)",
        [{"from": "public.t", "to": "public.t", "columns": {"id": {"to": "nr", "type": "bigint"}}}], [],
        "select seqtypid::regtype || a.attidentity::text from pg_sequence, pg_attribute a where attrelid = 'public.t'::regclass and attname = 'nr'",
        "biginta"),
    "rule_in_the_place_of_a_generated_column": (
        "create table t (id int primary key, v int, w int generated always as (v * 2) stored)", [],
        [{"table": "public.t", "column": "w", "type": "bigint", "as": "v * 3"}],
        "select format_type(a.atttypid, null) || a.attgenerated::text from pg_attribute a where attrelid = 'public.t'::regclass and attname = 'w'",
        "bigint"),
    "not_null_stays_where_a_rule_fills": (
        "create table t (id int primary key, v text not null)", [],
        [{"table": "public.t", "column": "v", "type": "varchar(50)", "as": "v || '!'"}],
        "select format_type(atttypid, atttypmod) || attnotnull from pg_attribute where attrelid = 'public.t'::regclass and attname = 'v'",
        "character varying(50)true"),
    "names_in_quotes": (
        'create schema "Old One"; create table "Old One"."T ""1""" (id int primary key, "A b" int, check ("A b" > 0))',
        [{"from": '"Old One"."T ""1"""', "to": '"New.One"."T.2"', "columns": {'"A b"': '"C ""d"""'}}], [],
        """select pg_get_constraintdef(oid) from pg_constraint where conrelid = '"New.One"."T.2"'::regclass and contype = 'c'""",
        'CHECK (("C ""d""" > 0))'),
    "schema_that_the_target_has": (
        "create table t (id int primary key)", [{"from": "public.t", "to": "there.t"}], [],
        "select count(*) from pg_tables where schemaname = 'there'", 2),
    "merged_by_identity_index": (
        "create table t (nr int, code text not null, v int); create unique index t_code on t (code) include (v);"
        "alter table t replica identity using index t_code;"
        "create table u (nr int, code text not null, v int, primary key (code))",
        [{"from": "public.t", "to": "public.m", "columns": {"v": "w"}, "origin": {"column": "v", "value": "t"}},
         {"from": "public.u", "to": "public.m", "columns": {"v": "w"}, "origin": {"column": "v", "value": "u"}}], [],
        "select pg_get_indexdef('public.t_code'::regclass)", "CREATE UNIQUE INDEX t_code ON public.m USING btree (v, code) INCLUDE (w)"),
    "merged_partitioned": (
        "create table t (id int, day int, primary key (id, day)) partition by range (day);"
        "create table t_1 partition of t for values from (0) to (10);"
        "create table u (id int, day int, primary key (id, day)) partition by range (day);"
        "create table u_1 partition of u for values from (0) to (5);",
        [{"from": "public.t", "to": "public.m", "origin": {"column": "o", "value": "t"}},
         {"from": "public.u", "to": "public.m", "origin": {"column": "o", "value": "u"}}], [],
        "select string_agg(pg_get_constraintdef(k.oid) || conrelid::regclass, ' ' order by conrelid::regclass::text)"
        " from pg_constraint k where conrelid in (select oid from pg_class where relname in ('m', 't_1', 'u_1'))",
        "PRIMARY KEY (o, id, day)m PRIMARY KEY (o, id, day)t_1"),
    "schemas_that_swap": (
        "create schema a; create schema b; create table a.t (id int primary key, v int); create table b.t (id int primary key, v text)",
        [{"from": "a.*", "to": "b.*"}, {"from": "b.*", "to": "a.*"}], [],
        "select string_agg(format_type(atttypid, null) || ' ' || attrelid::regclass, ', ' order by attrelid::regclass::text) from pg_attribute"
        " where attname = 'v' and attrelid in ('a.t'::regclass, 'b.t'::regclass)", "text a.t, integer b.t"),
    "inheritance": (
        "create table p (id int primary key, v int); create table c (primary key (id)) inherits (p)",
        [{"from": "public.p", "to": "s.p", "columns": {"v": "w"}}, {"from": "public.c", "to": "s.c", "columns": {"v": "w"}}], [],
        "select string_agg(attname || attrelid::regclass, ' ' order by attrelid::regclass::text) from pg_attribute"
        " where attname = 'w'", "ws.c ws.p"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(migration, shape):
    setup, mapping, rules, query, expected = SHAPES[shape]
    m = mapped(migration, mapping, rules)
    m.write({**m.config, "tables": {"include": ["public.*", "a.*", "b.*", '"Old One".*']}})
    m.source.execute(setup)
    if shape == "schema_that_the_target_has":
        m.target.execute("create schema there; create table there.other (id int)")
    m.run_until()
    assert m.target.value(query) == expected


REFUSALS = {
    "rule_without_type": (
        "create table t (id int primary key)", [], [{"table": "public.t", "column": "total", "as": "id * 2"}],
        2, ["migration.yaml:", "becomes \"total\"", "add type:"]),
    "unknown_type": (
        "create table t (id int primary key, v int)", [{"from": "public.t", "to": "public.t", "columns": {"v": {"to": "v", "type": "nonsense"}}}], [],
        2, ["migration.yaml:", "type: expected a type of the target, found \"nonsense\""]),
    "unknown_type_of_a_rule": (
        "create table t (id int primary key, v int)", [], [{"table": "public.t", "column": "w", "type": "int, x int", "as": "v"}],
        2, ["migration.yaml:", "type: expected a type of the target, found \"int, x int\""]),
    "type_of_a_partition_key": (
        "create table t (id int primary key) partition by range (id); create table t_1 partition of t for values from (0) to (9)",
        [{"from": "public.t", "to": "public.t", "columns": {"id": {"to": "id", "type": "bigint"}}}], [],
        3, ["ALTER TABLE \"public\".\"t\"", "partition key", "schema: exists"]),
    "merged_unique": (
        "create table t (id int primary key, v int constraint only_one unique); create table u (id int primary key, v int)",
        [{"from": "public.t", "to": "public.m", "origin": {"column": "o", "value": "t"}},
         {"from": "public.u", "to": "public.m", "origin": {"column": "o", "value": "u"}}], [],
        3, ["only_one", "schema: exists"]),
    "merged_and_referred": (
        "create table t (id int primary key); create table u (id int primary key); create table v (id int primary key, u int constraint to_u references u)",
        [{"from": "public.t", "to": "public.m", "origin": {"column": "o", "value": "t"}},
         {"from": "public.u", "to": "public.m", "origin": {"column": "o", "value": "u"}}], [],
        3, ["constraint to_u of public.v", "schema: exists"]),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_refused_before_anything_is_made(migration, refusal):
    setup, mapping, rules, code, words = REFUSALS[refusal]
    m = mapped(migration, mapping, rules)
    m.source.execute(setup)
    process = m.start(args=["--until", "caught-up"])
    assert process.wait(60) == code, process.tail()
    for word in words:
        assert word in process.log(), f"{word} in\n{process.log()}"
    assert not tables(m.target)
    assert not scratch_databases(m)


def test_without_createdb(migration):
    m = mapped(migration, SMALL_MAPPING, [], create_shadow=True)
    server = m.target.server
    server.execute(f"create role {m.name} login; grant set on parameter session_replication_role to {m.name}")
    for db in m.targets():
        server.execute(f"alter database {db.name} owner to {m.name}")
    config = {**m.config, "target": {"uri": m.target.uri(user=m.name)}, "shadow": {"uri": m.shadow.uri(user=m.name)}}
    m.write(config)
    m.source.execute(SMALL)
    for result in (m.run_cli("check"), m.run_cli("run", "--until", "caught-up")):
        assert result.returncode == 3
        assert f'ALTER ROLE "{m.name}" CREATEDB' in result.stdout + result.stderr
    assert not tables(m.target)
    server.execute(f"alter role {m.name} createdb")
    assert m.run_cli("check").returncode == 0
    m.run_until()
    assert_small(m)
    for db in m.targets():
        db.drop()
    server.execute(f"drop owned by {m.name}; drop role {m.name}")


def test_server_newer_than_pg_dump(migration, target18):
    """A scratch database is dumped: said before one is made, unless this machine has a pg_dump that can."""
    m = mapped(migration, SMALL_MAPPING, [], server=target18)
    m.source.execute(SMALL)
    process = m.start(args=["--until", "caught-up"])
    code = process.wait(120)
    if code == 0:
        assert_small(m)
        return
    assert code == 3 and "install postgresql-client-18" in process.log(), process.tail()
    assert "pg_dump and pg_restore are of version" in m.run_cli("check").stdout
    assert not tables(m.target)
    assert not scratch_databases(m)
