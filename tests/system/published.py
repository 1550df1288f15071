# SPDX-License-Identifier: Apache-2.0
"""What the records of <m>.changes and <m>.snapshot amount to, by the published rules of reading and with
fastavro: nothing of the code under test. assert_balanced of following.py compares targets with it."""
import io
import json
from collections import Counter

import fastavro

# The fields that every schema of ours begins with: enough to read a record's head.
HEAD = fastavro.parse_schema({"type": "record", "name": "Head", "fields": [
    {"name": "generation", "type": "long"}, {"name": "ordinal", "type": "long"}, {"name": "op", "type": "string"},
    {"name": "source", "type": {"type": "record", "name": "Source", "fields": [
        {"name": "commit_lsn", "type": "long"}, {"name": "seq", "type": "long"}, {"name": "lsn", "type": "long"},
        {"name": "txId", "type": "long"}, {"name": "ts_us", "type": "long"}, {"name": "snapshot", "type": "boolean"}]}},
    {"name": "boundary", "type": "long"}, {"name": "attempt", "type": "int"}]})


def framing_bytes(value):
    """Confluent's 0 and a schema's number, or single-object C3 01 and a fingerprint."""
    return 5 if value[0] == 0 else 10


def head_of(value):
    return fastavro.schemaless_reader(io.BytesIO(value[framing_bytes(value):]), HEAD)


def read_schemas(m):
    """{fingerprint: schema} of single-object framing, from the control topic."""
    found = {r.key().decode(): r.value() for r in m.kafka.consume(m.topic("control"))}
    return {int(key.split("/")[1], 16): fastavro.parse_schema(json.loads(text)) for key, text in found.items()
            if key.startswith("schema/") and text}


def whole(value, schemas):
    """(name of its schema, record) of a record in single-object framing."""
    schema = schemas[int.from_bytes(value[2:framing_bytes(value)], "little")]
    return schema["name"], fastavro.schemaless_reader(io.BytesIO(value[framing_bytes(value):]), schema)


def with_head(value, **changed):
    """The same record with another head; its body stays as it is."""
    stream = io.BytesIO(value)
    stream.seek(framing_bytes(value))
    head = fastavro.schemaless_reader(stream, HEAD)
    body = stream.read()
    source = {**head["source"], **{k: v for k, v in changed.items() if k in head["source"]}}
    head = {**head, **{k: v for k, v in changed.items() if k in head}, "source": source}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, HEAD, head)
    return value[:framing_bytes(value)] + out.getvalue() + body


class Partition:
    """A partition of <m>.changes after its records were read in order.

    ordinal: of the last record that counts; changes: how many change records count; exclusive: the
    positions of the events that count; barrier: the highest boundary; stale: records behind a fence of a
    higher generation, by generation; duplicates; gaps: records skipped because one before them was missing."""

    def __init__(self):
        self.generation = self.ordinal = self.changes = self.barrier = self.duplicates = self.gaps = 0
        self.position = (0, 0)
        self.has_gap = False
        self.exclusive = set()
        self.stale = Counter()

    def read(self, head, is_change):
        """Is it a change or an event that counts?"""
        if head["generation"] < self.generation:
            self.stale[head["generation"]] += 1
        elif head["op"] == "f":
            self.generation = head["generation"]
        elif head["op"] == "s":
            assert head["ordinal"] <= self.ordinal, f"a base beyond our last ordinal {self.ordinal}: {head}"
            self.has_gap = False
        elif head["op"] == "b":
            self.read_barrier(head)
        else:
            return self.read_numbered(head, is_change)
        return False

    def read_barrier(self, head):
        if head["ordinal"] == self.ordinal and not self.has_gap:
            self.barrier = max(self.barrier, head["boundary"])

    def read_numbered(self, head, is_change):
        position = head["source"]["commit_lsn"], head["source"]["seq"]
        if self.has_gap or head["ordinal"] > self.ordinal + 1:
            self.has_gap = True
            self.gaps += 1
        elif head["ordinal"] <= self.ordinal:
            assert position <= self.position, f"ordinal {self.ordinal} is at {self.position} too: {head}"
            self.duplicates += 1
        else:
            assert position > self.position, f"behind {self.position}: {head}"
            self.ordinal, self.position = head["ordinal"], position
            if is_change:
                self.changes += 1
            else:
                self.exclusive.add(position)
            return True
        return False


def read_changes(m):
    """{partition: Partition}"""
    parts = {p: Partition() for p in range(m.kafka.topics()[m.topic("changes")])}
    for record in m.kafka.consume(m.topic("changes")):
        parts[record.partition()].read(head_of(record.value()), record.key() is not None)
    return parts


def read_snapshot(m):
    """{partition: number of copied rows that no fence before them makes void}"""
    rows = {p: 0 for p in range(m.kafka.topics()[m.topic("snapshot")])}
    newest = dict.fromkeys(rows, 0)
    for record in m.kafka.consume(m.topic("snapshot")):
        head, p = head_of(record.value()), record.partition()
        if head["op"] == "f":
            newest[p] = max(newest[p], head["generation"])
        rows[p] += head["op"] == "r" and head["generation"] >= newest[p]
    return rows


def expected_counts(parts):
    """{partition: changes + covered}: an event in every partition counts in partition 0, an event that is
    in one partition alone counts there."""
    seen = Counter(position for part in parts.values() for position in part.exclusive)
    everywhere = {position for position, n in seen.items() if n == len(parts)}
    assert set(seen.values()) <= {1, len(parts)}, "an exclusive event is in some partitions only"
    return {p: part.changes + len(part.exclusive if p == 0 else part.exclusive - everywhere)
            for p, part in parts.items()}
