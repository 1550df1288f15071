# SPDX-License-Identifier: Apache-2.0
"""An outsider reads our topics with fastavro and confluent-kafka alone, and rebuilds each table from the records."""
import io
import json
import struct
import urllib.request
from decimal import Decimal, getcontext

import fastavro
import pytest

from following import assert_follows, wait_live
from rig import wait_until
import test_types

getcontext().prec = 2000
fastavro.read.LOGICAL_READERS["int-date"] = lambda data, *_: data          # raw: no year past 9999 in Python's date
fastavro.read.LOGICAL_READERS["long-time-micros"] = lambda data, *_: data
fastavro.read.LOGICAL_READERS["long-timestamp-micros"] = lambda data, *_: data
fastavro.read.LOGICAL_READERS["long-local-timestamp-micros"] = lambda data, *_: data
fastavro.read.LOGICAL_READERS["string-uuid"] = lambda data, *_: data


class Reader:
    """Schemas from <m>.control (single-object framing) or from a registry (Confluent framing)."""

    def __init__(self, m, registry=None):
        self.registry, self.schemas = registry, {}
        if registry is None:
            for r in m.kafka.consume(m.topic("control")):
                key = r.key().decode()
                if key.startswith("schema/") and r.value():
                    self.schemas[int(key.split("/")[1], 16)] = fastavro.parse_schema(json.loads(r.value()))

    def schema(self, value):
        if self.registry is None:
            assert value[:2] == b"\xc3\x01"
            return self.schemas[struct.unpack("<Q", value[2:10])[0]], value[10:]
        assert value[0] == 0
        number = struct.unpack(">i", value[1:5])[0]
        if number not in self.schemas:
            with urllib.request.urlopen(f"{self.registry.url}/schemas/ids/{number}") as answer:
                self.schemas[number] = fastavro.parse_schema(json.loads(json.load(answer)["schema"]))
        return self.schemas[number], value[5:]

    def read(self, value):
        schema, body = self.schema(value)
        stream = io.BytesIO(body)
        record = fastavro.schemaless_reader(stream, schema)
        assert stream.read() == b""
        return schema["name"], record


def rebuild(m, reader):
    """table key prefix -> {key: row}, or a list of rows for tables whose key has no columns."""
    tables, kinds = {}, set()

    def apply(key, record):
        schema, table, *columns = json.loads(key)
        rows = tables.setdefault(f"{schema}.{table}", {})
        identity = tuple(columns)
        kinds.add(record["op"])
        if record["op"] in "cr":
            rows[identity] = record["after"]
        elif record["op"] == "u":
            old = rows.get(identity, {})
            if record["before"] is not None and identity not in rows:
                old = rows.pop(next(k for k, row in rows.items() if is_row(row, record["before"], columns)))
            rows[identity] = {name: old[name] if name in record["unchanged"] else value for name, value in record["after"].items()}
        elif record["op"] == "d":
            del rows[identity]

    snapshots = sorted(m.kafka.consume(m.topic("snapshot")), key=lambda r: (r.partition(), r.offset()))
    for r in snapshots:
        name, record = reader.read(r.value())
        if r.key() is not None:
            apply(r.key(), record)
    points = {}
    for r in m.kafka.consume(m.topic("control")):
        parts = r.key().decode().split("/")
        if parts[0] == "copy" and parts[-1] == "point":
            points[parts[1]] = json.loads(r.value())["boundary"]
    # in source order, as a reader of all partitions would merge them
    changes = []
    for r in m.kafka.consume(m.topic("changes")):
        name, record = reader.read(r.value())
        if r.key() is not None:
            changes.append(((record["source"]["commit_lsn"], record["source"]["seq"]), record["op"] != "d", r.key(), record))
    point = max((int(p.split("/")[0], 16) << 32 | int(p.split("/")[1], 16) if isinstance(p, str) else p) for p in points.values())
    for (commit, _), _, key, record in sorted(changes, key=lambda c: c[:2]):
        if commit >= point:
            apply(key, record)
    return tables, kinds


def is_row(row, before, columns):
    return all(row[name] == value for name, value in before.items() if value is not None)


def test_shop_is_rebuilt_from_records(migration):
    m = migration()
    m.source.execute("create type mood as enum ('sad', 'ok'); create table a (id int primary key, t text, n numeric(10,2), at timestamptz, m mood, l int[]);"
                     "insert into a select i, 'text ' || i, i / 3.0, '2026-01-01Z'::timestamptz + i * interval '1 second', 'ok', array[i, 2] from generate_series(1, 300) i")
    m.start()
    wait_live(m)
    m.source.execute("update a set t = 'changed' where id % 3 = 0; delete from a where id % 7 = 0; update a set id = id + 1000 where id % 50 = 1;"
                     "insert into a values (5000, null, null, null, null, '{}')")
    assert_follows(m)
    tables, kinds = rebuild(m, Reader(m))
    assert {"r", "c", "u", "d"} <= kinds
    rows = tables["public.a"]
    expected = {str(row[0]): row for row in m.source.sql("select id, t, n, (extract(epoch from at) * 1000000)::bigint, m::text, l::text from a")}
    assert {k[0] for k in rows} == set(expected)
    for (key,), row in rows.items():
        assert (row["id"], row["t"], row["n"], row["at"], row["m"], row["l"]) == expected[key], key


def test_every_record_of_the_type_torture_decodes(migration):
    m = migration()
    test_types.run_torture(m, "plain")
    decode_all(m, Reader(m))


def decode_all(m, reader):
    names = set()
    for kind in ("changes", "snapshot"):
        for r in m.kafka.consume(m.topic(kind)):
            names.add(reader.read(r.value())[0])
    assert any(name.endswith("Envelope") for name in names) and any("Barrier" in name for name in names)


def test_with_a_registry(migration, registry):
    m = migration(kafka={"schema.registry.url": registry.url})
    m.source.execute("create table a (id int primary key, t text); insert into a values (1, 'x'), (2, null)")
    m.start()
    wait_live(m)
    m.source.execute("update a set t = 'y' where id = 2; insert into a values (3, 'z')")
    assert_follows(m)
    reader = Reader(m, registry)
    tables, _ = rebuild(m, reader)
    assert {k[0]: row["t"] for k, row in tables["public.a"].items()} == {"1": "x", "2": "y", "3": "z"}
    decode_all(m, reader)
