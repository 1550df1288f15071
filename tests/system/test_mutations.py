# SPDX-License-Identifier: Apache-2.0
"""Every corruption of a target is found and named, and nothing else is: at random moments, under load, over all types.

A plan is drawn from the seed (--seed): a list of mutations, each with rows of its own. Half of them fall on rows of the shadow that
the stream has just touched: a window must name them. The others fall on rows that no window looks at, of either target: a scrub must. What is
expected is not what the plan says, but what the bytes say that COPY prints on both sides; the plan says that there must be something.

Everyday: one mutation a type and some forty others. --long: three times as many.
"""
import json
import re
from collections import Counter
from dataclasses import dataclass

from following import assert_follows, wait_caught_up, wait_live
from rig import wait_until
from test_gate import ROLES, start_roles, wait_open
from test_types import MODIFIED, USER_TYPES, VALUES, literal, type_sql
from test_verify import Writers, assert_clean, verify

TYPES = {**VALUES, **MODIFIED}
TYPES_A_TABLE = 25
LOAD_FROM = 100_000  # rows from here on are the load's, below are the plan's

# Of each type: alone, in a domain, an array, a composite, arrays of these.
SHAPES = {"v": "{v}", "d": "{v}::dom_{k}", "a": "array[{v}, null]::{t}[]", "c": "row({v}, 7)::com_{k}",
          "ca": "array[row({v}, 7)::com_{k}, null]", "da": "array[{v}]::dom_{k}[]"}

# What is equal, or looks so, and is not the same. None: NULL.
TWINS = [
    ("float8", "0", "-0"), ("float4", "-0", "0"), ("point", "(0,0)", "(0,-0)"), ("floatrange", "[0,1)", "[-0,1)"),
    ("numeric", "1.0", "1.00"), ("numeric", "0", "0.00"), ("numrange", "[1.0,2)", "[1.00,2)"), ("jsonb", '{"a": 1}', '{"a": 1.0}'),
    ("interval", "1 day", "24 hours"), ("interval", "1 mon", "30 days"), ("json", '{"a":1,"b":2}', '{"b":2,"a":1}'), ("json", '{"a":1}', '{"a": 1}'),
    ("text", None, ""), ("text", "", "NULL"), ("text", "NULL", None), ("varchar", "", None), ("text", "null", "NULL"),
    ("text", "a", "a "), ("varchar", "b", "b "), ("bpchar", "b", "b "), ("text", "a", "b"), ("text", "a", "\u0430"), ("text", "\u00e9", "e\u0301"),
    ("timetz", "12:00+00", "13:00+01"), ("timestamptz", "2024-01-01 00:00:00+00", "2024-01-01 00:00:00.000001+00"),
    ("inet", "10.0.0.1", "10.0.0.1/31"), ("varbit", "0101", "01010"), ("bytea", "\\x00ff", "\\x00fe"), ("bytea", "", "\\x00"),
    ("word_list", "{a,NULL}", "{a,\"NULL\"}"), ("pair", "(,)", None), ("pair", "(1,)", "(1,\"\")"), ("tsvector", "a:1", "a:2"), ("xml", "<a/>", "<a></a>"),
]

THINGS = """
create table things (id int primary key, name text, n int, by bytea, price numeric, at timestamptz, big text, blob bytea);
create table pairs (a int, b text, v int, primary key (b, a));
create table logs (who int, what text, at timestamp); alter table logs replica identity full;
create table quiet_logs (who int, what text, at timestamp); alter table quiet_logs replica identity full;
create table hot (id int primary key, v text, n int);
insert into hot select i, 'a', 0 from generate_series(1, 200) i;
"""
BIG = 5_000_000
UNSENT = 9 * LOAD_FROM  # a row whose large values stay as they are while the load changes it


@dataclass
class Mutation:
    """ids: of the rows it concerns, in column `key` of its table; sql: run on a target; touch: run on the source before it.
    moves_key: the row gets a key that the stream has not named: only a scrub sees it there."""
    name: str
    table: str
    ids: list
    sql: str
    key: str = "id"
    touch: str = None
    moves_key: bool = False

    def is_seen_by_window(self, difference):
        return concerns(self, difference) and not (self.moves_key and difference[1] == "extraneous")

    def touching(self):
        return self.touch or f"update {self.table} set {self.key} = {self.key} where {self.key} = any (array[{', '.join(map(str, self.ids))}])"


class Wide:
    """A table of many types."""

    def __init__(self, number, types):
        self.name, self.types = f"wide_{number}", types
        self.columns = [f"{shape}{k}" for k, _ in types for shape in SHAPES]

    def setup(self):
        made = "".join(f"create domain dom_{k} as {type_sql(t)}; create type com_{k} as (v {type_sql(t)}, n int);" for k, t in self.types)
        columns = ", ".join(f"v{k} {type_sql(t)}, d{k} dom_{k}, a{k} {type_sql(t)}[], c{k} com_{k}, ca{k} com_{k}[], da{k} dom_{k}[]"
                            for k, t in self.types)
        return f"{made} create table {self.name} (id int primary key, {columns});"


def cell(k, name, shape, value):
    """A value in a shape; (value,) is that value alone, whatever the shape: a NULL."""
    t = type_sql(name)
    v = f"null::{t}" if value is None else f"{literal(value)}::{t}"
    return SHAPES[shape].format(v=v, k=k, t=t)


class Plan:
    """Rows for the source, and mutations, each with rows of its own."""

    def __init__(self, rng, source, rounds):
        self.rng, self.rows, self.later, self.next_id = rng, [], [], 100
        numbered = list(enumerate(TYPES))
        self.wides = [Wide(i, numbered[at:at + TYPES_A_TABLE]) for i, at in enumerate(range(0, len(numbered), TYPES_A_TABLE))]
        source.execute(USER_TYPES + THINGS + "".join(w.setup() for w in self.wides))
        with source.connect() as c:
            prints = {t: c.execute("select " + ", ".join(f"concat({literal(v)}::{type_sql(t)})" for v in values)).fetchone()
                      for t, values in TYPES.items()}
        # one value of each print
        self.values = {t: list({p: v for p, v in zip(prints[t], values) if len(v) < 2000}.values()) for t, values in TYPES.items()}
        self.rounds = [self.draw() for _ in range(rounds)]
        for wide in self.wides:
            for _ in range(10):
                self.wide_row(wide, id=LOAD_FROM + self.new_id())
        self.rows.append(f"insert into things (id, n, big) values ({UNSENT}, 0, repeat('0123456789', {BIG // 10}))")

    def new_id(self):
        self.next_id += 1
        return self.next_id

    def wide_row(self, wide, id=None, **cells):
        id = id or self.new_id()
        for k, t in wide.types:
            for shape in SHAPES:
                value = self.rng.choice([None, *self.values[t] * 2])
                cells.setdefault(f"{shape}{k}", cell(k, t, shape, value))
        self.rows.append(f"insert into {wide.name} (id, {', '.join(wide.columns)}) values ({id}, {', '.join(cells[c] for c in wide.columns)})")
        return id

    def thing(self, big=""):
        id = self.new_id()
        self.rows.append(f"insert into things values ({id}, 'name {id}', {id}, decode(md5('{id}'), 'hex'), {id}.50,"
                         f" '2024-01-01'::timestamptz + {id} * interval '1 hour', {big or 'null'}, {f'convert_to({big}, $$UTF8$$)' if big else 'null'})")
        return id

    def older(self, table, id, change):
        """The row as it was before a change of the source: kept aside by the test meanwhile."""
        self.later.append(f"update {table} set {change} where id = {id}")
        return Mutation("older version", table, [id], f"delete from {table} where id = {id}; insert into {table} select * from older.{table} where id = {id}")

    def draw(self):
        made = [self.of_type(wide, k, t) for wide in self.wides for k, t in wide.types]
        made += [self.twin(*twin) for twin in TWINS] + self.of_shapes() + self.of_rows() + self.of_things() + self.of_pairs() + self.of_logs("logs") + self.of_logs("quiet_logs")
        self.rng.shuffle(made)
        return made

    def of_type(self, wide, k, t):
        shape, kind = self.rng.choice(list(SHAPES)), self.rng.choice(["another", "another", "to null", "from null"])
        if kind == "another" and len(self.values[t]) < 2:
            kind = "to null"
        one, *others = self.rng.sample(self.values[t], min(2, len(self.values[t])))
        pair = [cell(k, t, shape, one), "null"] if kind != "another" else [cell(k, t, shape, one), cell(k, t, shape, others[0])]
        if kind == "from null":
            pair.reverse()
        return self.of_cell(wide, f"{shape}{k}", f"{t}, {kind}", *pair)

    def twin(self, t, one, other):
        wide, k = next((w, k) for w in self.wides for k, name in w.types if name == t)
        shape = self.rng.choice(list(SHAPES))
        return self.of_cell(wide, f"{shape}{k}", f"{t}, {one!r} to {other!r}", cell(k, t, shape, one), cell(k, t, shape, other))

    def of_shapes(self):
        wide, k = next((w, k) for w in self.wides for k, name in w.types if name == "int4")
        return [self.of_cell(wide, f"{shape}{k}", name, before, after) for name, shape, before, after in [
            ("bounds", "a", "'{5,6}'", "'[0:1]={5,6}'"), ("dimensions", "a", "'{5,6}'", "'{{5,6}}'"), ("an empty array", "a", "'{}'", "null"),
            ("a NULL in an array", "a", "'{}'", "'{NULL}'"), ("a composite of NULLs", "c", "null", "row(null, null)"),
            ("a field", "c", "row(5, 7)", "row(5, null)"), ("order", "da", "'{5,6}'", "'{6,5}'")]]

    def of_cell(self, wide, column, name, before, after):
        id = self.wide_row(wide, **{column: before})
        return Mutation(f"{name} in {column}", wide.name, [id], f"update {wide.name} set {column} = {after} where id = {id}")

    def of_rows(self):
        """Whole rows of a table of many types."""
        wide = self.rng.choice(self.wides)
        drop, one, other, old, new = *[self.wide_row(wide) for _ in range(4)], self.new_id()
        columns = ", ".join(wide.columns)
        return [
            Mutation("drop a row", wide.name, [drop], f"delete from {wide.name} where id = {drop}"),
            self.added("add a row", wide.name, new, f"insert into {wide.name} (id, {columns}) select {new}, {columns} from {wide.name} where id = {one}"),
            self.swap(wide.name, one, other, wide.columns),
            self.older(wide.name, old, ", ".join(f"{c} = (select {c} from {wide.name} where id = {one})" for c in wide.columns)),
        ]

    @staticmethod
    def added(name, table, id, sql):
        return Mutation(name, table, [id], sql, touch=f"insert into {table} (id) values ({id}); delete from {table} where id = {id}")

    @staticmethod
    def swap(table, one, other, columns):
        return Mutation(f"swap {len(columns)} columns", table, [one, other], f"update {table} x set " + ", ".join(f"{c} = y.{c}" for c in columns)
                        + f" from {table} y where x.id + y.id = {one + other} and x.id in ({one}, {other})")

    def of_things(self):
        a, b, c, d, e, f, g, h, i = [self.thing() for _ in range(9)]
        large, larger, new = self.thing(f"repeat('0123456789', {BIG // 10})"), self.thing(f"repeat('0123456789', {BIG // 10})"), -self.new_id()
        byte, bit = self.rng.randrange(BIG), self.rng.randrange(8)
        return [
            self.swap("things", a, b, ["n"]), self.swap("things", c, d, ["name", "n", "by", "price", "at"]),
            Mutation("flip a byte", "things", [e], f"update things set by = set_byte(by, {byte % 16}, get_byte(by, {byte % 16}) # {1 << bit}) where id = {e}"),
            Mutation("a truncated character", "things", [f], f"update things set name = convert_to('caf', 'UTF8') || '\\xc3'::bytea where id = {f}"),
            Mutation("drop a row", "things", [g], f"delete from things where id = {g}"),
            Mutation("several columns", "things", [h], f"update things set n = null, price = price * 1.0, at = at + interval '1 microsecond' where id = {h}"),
            self.older("things", i, "name = 'newer'"),
            self.added("add a row", "things", new, f"insert into things (id, n) values ({new}, 1)"),
            Mutation("one bit in 5 MB of bytea", "things", [large], f"update things set blob = set_bit(blob, {byte * 8 + bit}, 1 - get_bit(blob, {byte * 8 + bit})) where id = {large}"),
            Mutation("one bit in 5 MB of text", "things", [larger],
                     f"update things set big = overlay(big placing chr(ascii(substr(big, {byte + 1}, 1)) # 1) from {byte + 1} for 1) where id = {larger}"),
        ]

    def of_pairs(self):
        made = []
        for name, sql in [("mismatch", "update pairs set v = -1 where a = {}"), ("missing", "delete from pairs where a = {}"),
                          ("extraneous", "insert into pairs values ({}, 'c', 1)"), ("key", "update pairs set b = b || ' ' where a = {}"),
                          ("a truncated character in the key", "update pairs set b = convert_to('caf', 'UTF8') || '\\xc3'::bytea where a = {}")]:
            a = self.new_id()
            self.rows.append(f"insert into pairs values ({a}, 'b, \"{a}\\', {a})")
            made.append(Mutation(f"composite key, {name}", "pairs", [a], sql.format(a), "a"))
        made[3].moves_key = made[4].moves_key = True
        made[2].touch = f"insert into pairs values ({made[2].ids[0]}, 'c', 1); delete from pairs where a = {made[2].ids[0]} and b = 'c'"
        return made

    def of_logs(self, table):
        """Each row twice, so that one of two equal ones can go."""
        made = []
        for name, sql in [("drop", "delete from {t} where ctid = (select min(ctid) from {t} where who = {i} and what = 'w0')"),
                          ("a pair of duplicates", "insert into {t} values ({i}, 'twice', null), ({i}, 'twice', null)"),
                          ("one more", "insert into {t} select * from {t} where who = {i} and what = 'w0' limit 1"),
                          ("a pair goes", "delete from {t} where who = {i} and what = 'w1'"),
                          ("change", "update {t} set what = what || ' ' where ctid = (select min(ctid) from {t} where who = {i})"),
                          ("swap", "update {t} set what = case what when 'w0' then 'w1' else 'w0' end where ctid in"
                                   " (select min(ctid) from {t} where who = {i} group by what) or (who = {i} and what = 'w1')")]:
            i = self.new_id()
            self.rows.append(f"insert into {table} select {i}, 'w' || i % 2, '2024-01-01' from generate_series(0, 3) i")
            made.append(Mutation(f"keyless, {name}", table, [i], sql.format(t=table, i=i), "who"))
        return made

    def load(self, rng):
        """Other rows of the same tables (but quiet_logs), and hot ones of another."""
        wide, i, j = rng.choice(self.wides), rng.randint(1, 20), rng.randint(1, 5)
        column, first = rng.choice(wide.columns), f"(select min(id) from {wide.name} where id > {LOAD_FROM})"
        columns = ", ".join(wide.columns)
        return rng.choice([
            f"update {wide.name} set {column} = (select {column} from {wide.name} where id = {first}) where id = {first} + {i}",
            f"insert into {wide.name} (id, {columns}) select {2 * LOAD_FROM + i}, {columns} from {wide.name} where id = {first} on conflict do nothing",
            f"delete from {wide.name} where id = {2 * LOAD_FROM + i}",
            f"update hot set n = n + 1 where id = {j}", f"update things set n = n + 1 where id = {UNSENT}",
            f"update hot set v = 'b' where id = {j}; update hot set v = 'a' where id = {j}",
            f"insert into things (id, name, n) values ({LOAD_FROM + i}, 'new', 0) on conflict (id) do update set n = things.n + 1",
            f"delete from things where id = {LOAD_FROM + i}", f"update things set id = {2 * LOAD_FROM} + id % 1000 where id = {LOAD_FROM + i}",
            f"delete from things where id between {2 * LOAD_FROM} and {3 * LOAD_FROM}",
            f"insert into pairs values ({LOAD_FROM + i}, 'b', 0) on conflict (a, b) do update set v = pairs.v + 1", f"delete from pairs where a = {LOAD_FROM + i}",
            f"insert into logs values ({LOAD_FROM + j}, 'new', null)", f"delete from logs where ctid in (select ctid from logs where who = {LOAD_FROM + j} limit 2)",
        ])


KEYS = {"pairs": ["a", "b"], "logs": [], "quiet_logs": []}
KEYLESS = "logs", "quiet_logs"


def rows_of(db, table):
    """{key: [(column, text)…]} of the plan's rows; keyless: {row: how many}."""
    first = "who" if table in KEYLESS else KEYS.get(table, ["id"])[0]
    columns = db.columns(table)
    rows = [dict(zip(columns, line.rstrip(b"\n").split(b"\t"))) for line in db.rows(table, columns)]
    rows = [row for row in rows if int(row[first]) < LOAD_FROM]
    if table in KEYLESS:
        return Counter(tuple(sorted(row.items())) for row in rows)
    return {tuple((c, row[c]) for c in KEYS.get(table, ["id"])): row for row in rows}


def text(copied):
    """What COPY printed, as JSON prints it."""
    return None if copied == b"\\N" else re.sub(rb"\\(.)", rb"\1", copied).decode(errors="backslashreplace")


def named_key(pairs):
    return json.dumps({c: text(v) for c, v in pairs}, sort_keys=True)


def expected(source, target, tables):
    """The differences between the plan's rows, from their bytes: a Counter of (table, kind, key, columns)."""
    found = Counter()
    for table in tables:
        s, t = rows_of(source, table), rows_of(target, table)
        for key in s.keys() | t.keys():
            if s.get(key) == t.get(key):
                continue
            more = (s.get(key, 0) > t.get(key, 0)) if table in KEYLESS else key not in t
            kind = "missing" if more else "extraneous" if table in KEYLESS or key not in s else "mismatch"
            columns = [c for c in s[key] if s[key][c] != t[key][c]] if kind == "mismatch" else []
            found[f"public.{table}", kind, named_key(key), tuple(sorted(columns))] += 1
    return found


def named(differences):
    """What verify --json has named. A keyless row's name is the row."""
    return Counter((d["table"], d["kind"], json.dumps(d["key"] if d["key"] is not None else d["source"] or d["target"], sort_keys=True), tuple(sorted(d["columns"])))
                   for d in differences)


def from_log(log):
    """What the windows have named: (table, kind, key); of a keyless row, its digest."""
    return re.findall(r"(\S+) key (.*): (mismatch|missing|extraneous) on the shadow, came", log)


def concerns(mutation, difference):
    table, _, key, _ = difference
    return table == f"public.{mutation.table}" and int(json.loads(key)[mutation.key]) in mutation.ids


def mutate(db, rng, writers, mutations):
    """Each in a transaction of its own, some transactions of the load apart."""
    with db.connect() as c:
        c.execute("create cast (bytea as text) without function as assignment")
        for mutation in mutations:
            at = writers.count + rng.randrange(4)
            wait_until(lambda: writers.count >= at or writers.failures, 30, "the load to go on")
            c.execute(f"begin; set local session_replication_role = replica; {mutation.sql}; commit")
        c.execute("drop cast (bytea as text)")


def undo(db, mutations):
    with db.connect() as c:
        for m in mutations:
            where = f"where {m.key} = any (array[{', '.join(map(str, m.ids))}])"
            c.execute(f"begin; delete from {m.table} {where}; insert into {m.table} select * from kept.{m.table} {where}; commit")


def keep(db, schema, tables):
    db.execute(f"create schema {schema};" + "".join(f"create table {schema}.{t} as select * from {t};" for t in tables))


def assert_named(m, db, role, mutations, tables):
    """verify names what differs, all of it and nothing else. Returns what that is."""
    wanted = expected(m.source, db, tables)
    for mutation in mutations:
        assert any(concerns(mutation, d) for d in wanted), f"nothing differs after {mutation}"
    for d in wanted:
        assert any(concerns(mutation, d) for mutation in mutations), f"{d}: not of the plan"
    code, differences, summary, stderr = verify(m, "--role", role)
    seen = named(differences)
    assert seen == wanted, f"{role}: not named: {wanted - seen}\nnamed too much: {seen - wanted}\n{summary}\n{stderr[-2000:]}"
    assert code == 4 and all(d["role"] == role for d in differences)
    return wanted


def assert_windows_name(reconcile, log_before, wanted):
    """The windows name what was touched, all of it and nothing else."""
    def of_log(table, key, kind):
        parts = [p.strip('"').replace('\\"', '"').replace("\\\\", "\\") for p in re.findall(r'"(?:[^"\\]|\\.)*"|[^,{}]+', key)]
        return table, kind, () if table.removeprefix("public.") in KEYLESS else tuple(sorted(parts))

    def of_bytes(table, kind, key, _):
        # bytes that are no character, as the log was read
        parts = [] if table.removeprefix("public.") in KEYLESS else [re.sub(r"\\x[89a-f].", "\ufffd", v) for v in json.loads(key).values()]
        return table, kind, tuple(sorted(parts))

    def seen():
        return Counter(of_log(*found) for found in from_log(reconcile.log()[log_before:]))
    keys = Counter()
    for difference, n in wanted.items():
        keys[of_bytes(*difference)] += n
    wait_until(lambda: not keys - seen(), 90, lambda: f"the windows to name {keys - seen()}\n{reconcile.tail()}")
    assert seen() == keys, f"named too much by a window: {seen() - keys}"


def split(mutations):
    """-> (on rows that are touched, on others of the shadow, on others of the primary): a half and two quarters."""
    # a keyless table is looked at as a whole when it is touched
    logs, free = [x for x in mutations if x.table == "logs"], [x for x in mutations if x.table not in KEYLESS]
    touched = logs + free[:(len(mutations) + 1) // 2 - len(logs)]
    still = [x for x in mutations if x not in touched]
    return touched, still[::2], still[1::2]


def check_scrub(m, plan, rounds, writers, tables):
    """On rows that nothing touches, on the primary; without windows, so that it does not wait for them."""
    for mutations in rounds:
        mutate(m.target, plan.rng, writers, mutations)
        assert_named(m, m.target, "primary", mutations, tables)
        undo(m.target, mutations)


def check_windows(m, plan, rounds, reconcile, writers, tables):
    """On the shadow. A window is held, so that what it must see is there when it looks."""
    for touched, still in rounds:
        before = len(reconcile.log())
        reconcile.sigstop()
        m.source.execute("; ".join(x.touching() for x in touched))
        wait_caught_up(m, [m.shadow])
        mutate(m.shadow, plan.rng, writers, touched + still)
        reconcile.sigcont()
        wanted = assert_named(m, m.shadow, "shadow", touched + still, tables)
        assert_windows_name(reconcile, before, Counter({d: n for d, n in wanted.items() if any(x.is_seen_by_window(d) for x in touched)}))
        undo(m.shadow, touched + still)
        wait_open(m)


def check_unsent(m, reconcile):
    """A bit of a large value that the stream does not send, in a row that changes all the time."""
    before = len(reconcile.log())
    m.shadow.execute(f"update things set big = overlay(big placing '1' from 4000001 for 1) where id = {UNSENT}")
    wait_until(lambda: from_log(reconcile.log()[before:]), 60, lambda: f"a window to name it\n{reconcile.tail()}")
    code, differences, _, stderr = verify(m, "--role", "shadow")
    assert code == 4 and [(d["table"], d["kind"], d["key"], d["columns"]) for d in differences] == [
        ("public.things", "mismatch", {"id": str(UNSENT)}, ["big"])], (differences, stderr)
    assert from_log(reconcile.log()[before:]) == [("public.things", f"{{{UNSENT}}}", "mismatch")]
    m.shadow.execute(f"update things set big = repeat('0123456789', {BIG // 10}) where id = {UNSENT}")
    wait_open(m)


def start_plan(m, plan, tables):
    with m.source.connect() as c:
        for row in plan.rows:
            c.execute(row)
    m.start()
    wait_live(m, timeout=240)
    for db in m.targets():
        keep(db, "older", tables)
    m.source.execute("; ".join(plan.later))
    wait_caught_up(m)
    for db in m.targets():
        keep(db, "kept", tables)


def test_every_mutation_is_found_and_named(migration, target18, rng, is_long):
    m = migration(server=target18)
    plan = Plan(rng, m.source, 3 if is_long else 1)
    tables = [w.name for w in plan.wides] + ["things", "pairs", "logs", "quiet_logs"]
    rounds = [split(mutations) for mutations in plan.rounds]
    start_plan(m, plan, tables)
    writers = Writers(m, rng, sessions=2, statement=plan.load, pause=0.05)
    try:
        check_scrub(m, plan, [on_primary for _, _, on_primary in rounds], writers, tables)
        m.stop()
        m.write({**m.config, "verify": {"window": "300ms"}})
        roles = start_roles(m, *ROLES)
        wait_open(m)
        check_windows(m, plan, [(touched, still) for touched, still, _ in rounds], roles["reconcile"], writers, tables)
        check_unsent(m, roles["reconcile"])
    finally:
        writers.stop()
    count, of_touched = sum(map(len, plan.rounds)), sum(len(touched) for touched, _, _ in rounds)
    print(f"{count} mutations, {of_touched} of them on rows that were touched")
    assert count >= (300 if is_long else 60) and 0 <= 2 * of_touched - count <= len(rounds)
    wait_open(m)
    assert_follows(m)
    assert_clean(m)
    m.stop()
