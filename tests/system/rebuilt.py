# SPDX-License-Identifier: Apache-2.0
"""Tables made of a migration's topics alone, by the published rules: confluent-kafka, fastavro, a registry, and nothing
of the code under test. Values are the texts that PostgreSQL prints."""
import io
import json
import struct
from collections import Counter
from dataclasses import dataclass

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

import published
from printed import printer
from rig.postgres import PINNED, quote_identifier, quote_table

# Types of which several texts are one key: message keys have them in a form of their own.
CANONICAL = ("numeric", "character", "real", "double precision")


class Control:
    """The newest value of each key of <m>.control."""

    def __init__(self, m):
        self.values = {r.key().decode(): json.loads(r.value()) for r in m.kafka.consume(m.topic("control")) if r.value()}
        self.relations = [value for _, value in self.below("relation")]
        self.versions = {(rel["oid"], rel["version"]): rel for rel in self.relations}
        self.attempts = {}  # {oid: {attempt: {begin, point, complete, void: value}}}
        for (oid, attempt, word), value in self.below("copy"):
            self.attempts.setdefault(int(oid), {}).setdefault(int(attempt), {})[word] = value

    def below(self, word):
        """(the parts of the key behind the word, value)"""
        return [(key.split("/")[1:], value) for key, value in self.values.items() if key.startswith(f"{word}/")]

    def copies(self):
        """{oid: (attempt, point, number of records)}: of each table the highest attempt that counts."""
        found = {}
        for oid, tries in self.attempts.items():
            whole = [n for n, said in tries.items() if "complete" in said and "void" not in said]
            if whole:
                said = tries[max(whole)]
                found[oid] = max(whole), lsn(said["point"]["boundary"]), said["complete"]["records"]
        return found

    def relation_at(self, oid, position):
        """The version of a table that is valid there."""
        return max((rel for rel in self.relations if rel["oid"] == oid and began(rel) <= position), key=began)


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def began(rel):
    return lsn(rel["from"]["commit_lsn"]), rel["from"]["seq"]


def fingerprint_of(schema):
    """As <m>.control writes it; fastavro gives the bytes in the order of the frame."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))[::-1].hex()


class Schema:
    """A schema, and how a row of it is read: column names as on the source, and what makes texts of values."""

    def __init__(self, text):
        plain = json.loads(text)
        self.parsed = fastavro.parse_schema(plain)
        self.name = self.parsed["name"]
        self.fingerprint = fingerprint_of(plain)
        before = next((field["type"][1] for field in plain["fields"] if field["name"] == "before"), {"fields": []})
        self.fields = [(field["name"], printer(field["type"])) for field in before["fields"]]
        self.columns = [field["pg.name"] for field in before["fields"]]

    def row(self, value):
        """Texts in the order of columns, None: null. No row is none."""
        return value and tuple(None if value[name] is None else form(value[name]) for name, form in self.fields)


class Reader:
    """Records of one framing: single-object, whose schemas are in <m>.control, or a registry's."""

    def __init__(self, m, registry=None):
        self.m, self.registry = m, registry
        self.control = Control(m)
        self.schemas = {}
        self.names = {kind: set() for kind in ("changes", "snapshot")}
        for (name,), value in self.control.below("schema"):
            schema = Schema(json.dumps(value))
            assert schema.fingerprint == name, f"{schema.name} has fingerprint {schema.fingerprint}, its key {name}"
            if registry is None:
                self.schemas[struct.pack("<Q", int(name, 16))] = schema

    def schema(self, value):
        """(schema, body) of a framed record."""
        if self.registry is None:
            assert value[:2] == b"\xc3\x01"
            return self.schemas[value[2:10]], value[10:]
        assert value[:1] == b"\x00"
        if value[1:5] not in self.schemas:
            self.schemas[value[1:5]] = Schema(self.registry.get(f"/schemas/ids/{struct.unpack('>i', value[1:5])[0]}")["schema"])
        return self.schemas[value[1:5]], value[5:]

    def decode(self, value):
        schema, body = self.schema(value)
        stream = io.BytesIO(body)
        record = fastavro.schemaless_reader(stream, schema.parsed)
        assert not stream.read(1), f"{schema.name}: the body goes on"
        return schema, record

    def read(self, kind):
        """(partition, key or None, schema, record) of each record of <m>.kind, partition after partition."""
        for r in self.m.kafka.consume(self.m.topic(kind)):
            schema, record = self.decode(r.value())
            self.names[kind].add(schema.name)
            yield r.partition(), r.key(), schema, record


@dataclass(slots=True)
class Row:
    values: tuple
    key: bytes  # of the newest message that was about it; None: that was in a rekey event


class Table:
    """The rows of one table of the source; a leaf has its own. Without a key: a bag of whole rows."""

    def __init__(self, rel, attempt, point):
        self.attempt, self.point = attempt, point
        self.rows, self.bag = {}, Counter()
        self.take_version(rel)

    def take_version(self, rel):
        self.rel = rel
        self.name, self.root = f"{rel['schema']}.{rel['table']}", f"{rel['root_schema']}.{rel['root_table']}"
        columns = [c for c in rel["columns"] if not c["dropped"]]
        self.columns = [c["name"] for c in columns]
        self.key = [] if rel["keyless"] else [i for i, c in enumerate(columns) if c["key"]]
        self.is_plain_key = not any(columns[i]["type_name"].startswith(CANONICAL) for i in self.key)

    def reshape(self, rel):
        """A column that is gone, gone; one that is new is null in the rows that are there."""
        old = self.columns
        self.take_version(rel)
        places = [old.index(name) if name in old else None for name in self.columns]

        def reshaped(values):
            return tuple(None if i is None else values[i] for i in places)
        self.bag = Counter({reshaped(values): n for values, n in self.bag.items()})
        rows, self.rows = self.rows.values(), {}
        for row in rows:
            self.add(reshaped(row.values), row.key)

    def clear(self):
        self.rows, self.bag = {}, Counter()

    def identity(self, values):
        return tuple(values[i] for i in self.key)

    def add(self, values, key):
        if self.rel["keyless"]:
            self.bag[values] += 1
            return
        identity = self.identity(values)
        assert identity not in self.rows, f"{self.name}: two rows {identity}"
        if key is not None:
            schema, table, *texts = json.loads(key.decode())
            assert (schema, table, len(texts)) == (self.rel["target_schema"], self.rel["target_table"], len(identity)), key
            assert not self.is_plain_key or tuple(texts) == identity, f"{self.name}: row {identity} has the message key {key}"
        self.rows[identity] = Row(values, key)

    def take(self, values):
        """The row with this key, or of all these values, which is there no more."""
        if self.rel["keyless"]:
            assert self.bag[values] > 0, f"{self.name}: there is no row {values}"
            self.bag[values] -= 1
            return Row(values, None)
        assert self.identity(values) in self.rows, f"{self.name}: there is no row {self.identity(values)}"
        return self.rows.pop(self.identity(values))

    def check_old(self, row, before):
        same = row.values == before if self.rel["identity"] == "f" else all(b in (None, a) for a, b in zip(row.values, before))
        assert same, f"{self.name}: the row was {row.values}, its change says {before}"

    def apply(self, op, key, before, after, unchanged):
        """One change that counts."""
        assert not unchanged or op == "u", f"{self.name}: {op} with unchanged {unchanged}"
        has = {"c": (False, True), "d": (True, False), "u": (bool(before), True)}[op]
        assert (bool(before), bool(after)) == has, f"{self.name}: {op} of {key} with the rows {before} and {after}"
        if op != "c":
            old = self.take(before or after)
            if before:
                self.check_old(old, before)
            is_same = op == "d" or self.identity(old.values) == self.identity(after)
            assert not is_same or None in (key, old.key) or key == old.key, f"{self.name}: row of {old.key} is changed as {key}"
        if unchanged:
            after = tuple(old.values[i] if name in unchanged else value for i, (name, value) in enumerate(zip(self.columns, after)))
        if after:
            self.add(after, key)

    def contents(self):
        return +self.bag if self.rel["keyless"] else Counter(row.values for row in self.rows.values())


class Rebuilt:
    """tables: {oid: Table}, as they were at the boundary until; seen: kinds of records that counted, and of those left out;
    events: {position: the partitions that an event is in}."""

    def __init__(self, m, registry=None):
        self.reader = Reader(m, registry)
        control = self.control = self.reader.control
        self.fingerprints = {rel["fingerprint"]: rel for rel in control.relations}
        self.copies = control.copies()
        self.tables = {oid: Table(control.relation_at(oid, (point, 0)), attempt, point)
                       for oid, (attempt, point, _) in self.copies.items()}
        self.seen = Counter()
        self.events, self.partition_of = {}, {}
        self.parts = {p: published.Partition() for p in range(m.kafka.topics()[m.topic("changes")])}
        self.load_copies()
        changes = self.read_changes()
        self.until = min(part.barrier for part in self.parts.values())
        self.seen["key change over partitions"] = sum(n == 2 for n in Counter(at for at, *_ in changes).values())
        # of two records with one position, a key's two, the delete comes first
        for (commit, _), _, do, record in sorted(changes, key=lambda change: change[:2]):
            if commit < self.until:
                do(*record)

    def load_copies(self):
        """Copied rows that count, and as many of them as the ends of the copies say."""
        newest, counts, said = Counter(), Counter(), {}
        for p, key, schema, record in self.reader.read("snapshot"):
            if record["op"] == "f":
                newest[p] = max(newest[p], record["generation"])
            elif record["generation"] < newest[p]:
                self.seen["stale copied"] += 1
            elif record["op"] == "e":
                said[record["oid"], record["attempt"], p] = record["record_count"]
            elif record["op"] == "r":
                oid = self.fingerprints[schema.fingerprint]["oid"]
                counts[oid, record["attempt"], p] += 1
                self.load_row(self.tables.get(oid), key, schema, record)
        for oid, (attempt, _, records) in self.copies.items():
            ends = {p: said.get((oid, attempt, p)) for p in self.parts}
            assert ends == {p: counts[oid, attempt, p] for p in self.parts} and sum(ends.values()) == records, \
                f"{self.tables[oid].name}: {records} records are said, {ends}, and {counts}"

    def load_row(self, table, key, schema, record):
        if not table or record["attempt"] != table.attempt:
            self.seen["r of an attempt that does not count"] += 1
            return
        self.seen["r"] += 1
        assert record["source"]["commit_lsn"] == table.point and not record["before"] and not record["unchanged"]
        self.check_version(table, schema)
        table.add(schema.row(record["after"]), key)

    def check_version(self, table, schema):
        assert schema.fingerprint == table.rel["fingerprint"], f"{table.name}: {schema.name} is not version {table.rel['version']}"
        assert schema.columns == table.columns

    def read_changes(self):
        """[(position, is it no delete, what takes it, its arguments)]: an event that is in every partition once."""
        found = []
        for p, key, schema, record in self.reader.read("changes"):
            if not self.parts[p].read(record, key is not None):
                continue
            at = record["source"]["commit_lsn"], record["source"]["seq"]
            if key is not None:
                assert self.partition_of.setdefault(key, p) == p, f"{key} is in partitions {self.partition_of[key]} and {p}"
                found.append((at, record["op"] != "d", self.change, (key, schema, record)))
                continue
            if at not in self.events:
                found.append((at, True, self.event, (record,)))
            self.events.setdefault(at, []).append(p)
        return found

    def change(self, key, schema, record):
        rel = self.fingerprints[schema.fingerprint]
        table = self.tables.get(rel["oid"])
        if not table or record["source"]["commit_lsn"] < table.point:
            self.seen["change that the copy has"] += 1
            return
        self.check_version(table, schema)
        self.seen[record["op"]] += 1
        self.seen["unchanged"] += bool(record["unchanged"])
        before, after = schema.row(record["before"]), schema.row(record["after"])
        self.seen["key change in one partition"] += bool(key and before and after and table.identity(before) != table.identity(after))
        table.apply(record["op"], key, before, after, record["unchanged"])

    def event(self, record):
        self.seen[record["kind"]] += 1
        self.seen[f"{record['kind']} in place"] += record["in_place"]
        where = self.events[record["source"]["commit_lsn"], record["source"]["seq"]]
        assert len(where) == (1 if record["in_place"] else len(self.parts)), f"{record} is in the partitions {where}"
        if record["kind"] == "copy":
            for t in record["tables"]:
                said = self.control.attempts[t["oid"]][t["attempt"]]["begin"]["boundary"]
                assert lsn(said) == record["boundary"], f"copy of {t} at {record['boundary']}, its begin says {said}"
        elif record["kind"] == "rekey":
            for framed in record["changes"]:
                schema, change = self.reader.decode(framed)
                assert (change["op"], change["generation"], change["ordinal"]) == ("u", 0, 0), change
                assert change["unchanged"] and change["before"], f"there is no reason to travel in an event: {change}"
                self.change(None, schema, change)
        else:
            for t in record["tables"]:
                self.table_event(record, t)

    def table_event(self, record, t):
        table = self.tables.get(t["oid"])
        if not table or record["source"]["commit_lsn"] < table.point:
            self.seen["event that the copy has"] += 1
        elif record["kind"] == "truncate":
            table.clear()
        else:
            assert record["kind"] == "relation", record
            table.reshape(self.control.versions[t["oid"], t["version"]])

    def contents(self, name):
        """(columns by name, Counter of rows) of a table of the source; of a partitioned one, its leaves' together."""
        total, columns = Counter(), None
        for table in (t for t in self.tables.values() if t.root == name):
            names = sorted(table.columns)
            assert columns in (None, names), f"{name}: its leaves have different columns"
            columns, places = names, [table.columns.index(c) for c in names]
            for values, n in table.contents().items():
                total[tuple(values[i] for i in places)] += n
        return columns, total


def source_rows(db, name):
    """(columns by name, Counter of rows) as PostgreSQL prints them. Generated columns do not travel."""
    generated = {c for c, in db.sql("select attname from pg_attribute where attgenerated <> '' and attrelid = to_regclass(%s)",
                                    quote_table(name))}
    columns = [c for c in db.columns(name) if c not in generated]
    with db.connect() as c:
        for setting, value in PINNED.items():
            c.execute("select set_config(%s, %s, false)", (setting, value))
        result = c.execute(f"select {', '.join(map(quote_identifier, columns))} from {quote_table(name)}").pgresult
        cells = [[result.get_value(i, j) for j in range(len(columns))] for i in range(result.ntuples)]
    return columns, Counter(tuple(None if cell is None else cell.decode() for cell in row) for row in cells)


def difference(rebuilt, db, name):
    """What differs between a rebuilt table and the source's, as text; None when they are equal."""
    columns, seen = rebuilt.contents(name)
    wanted_columns, wanted = source_rows(db, name)
    if columns != wanted_columns:
        return f"{name}: columns {columns} rebuilt, {wanted_columns} on the source"
    if seen == wanted:
        return None
    here, there = (sorted(counter.elements(), key=repr) for counter in (seen - wanted, wanted - seen))
    text = f"{name}: {seen.total()} rows rebuilt, {wanted.total()} on the source; {len(here)} and {len(there)} of them differ"
    if len(here) != len(there):
        return f"{text}\n    rebuilt: {str(here[:2])[:400]}\n    on the source: {str(there[:2])[:400]}"
    for pair in list(zip(here, there))[:3]:
        text += "".join(f"\n    {column}: {str(a)[:100]!r} rebuilt, {str(b)[:100]!r} on the source"
                        for column, a, b in zip(columns, *pair) if a != b)
    return text


def assert_rebuilt(rebuilt, db):
    """Every table of the source, and no other."""
    assert {table.root for table in rebuilt.tables.values()} == set(db.tables())
    differences = [text for name in db.tables() if (text := difference(rebuilt, db, name))]
    assert not differences, "\n" + "\n".join(differences)
