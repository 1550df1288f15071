# SPDX-License-Identifier: Apache-2.0
"""What the source may forget: nothing that some partition has not acknowledged."""
import subprocess
import time
from collections import Counter

import pytest
from confluent_kafka import TopicPartition

from rig import Kafka, wait_until
from rig.process import Process, command_as

PARTITIONS = 4
HELD = 2  # the partition whose acknowledgements are held back; <m>.control is on partition 0's broker


class MockKafka(Kafka):
    """librdkafka's mock cluster, one broker per partition, in a process that outlives its clients."""

    def __init__(self, program):
        self._process = subprocess.Popen(command_as(None, [program, str(PARTITIONS)]), text=True, bufsize=1,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        word, self.bootstrap = self._process.stdout.readline().split()
        assert word == "bootstrap"
        self._admin = None
        self.silent = set()  # partitions whose broker would let us wait

    def _watermarks(self, topic):
        reader = self._consumer()
        try:
            partitions = set(reader.list_topics(topic, timeout=10).topics[topic].partitions) - self.silent
            return {p: reader.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in partitions}
        finally:
            reader.close()

    def running(self):
        return False  # it has no admin calls: nothing can be dropped

    def command(self, line):
        self._process.stdin.write(line + "\n")
        assert self._process.stdout.readline() == "ok\n", line

    def close(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture
def mock(programs):
    cluster = MockKafka(programs / "mock_kafka")
    yield cluster
    cluster.close()


def start(m, programs, *args):
    number = len(m.processes) + 1
    process = Process(f"position-{number}", [programs / "position", m.yaml, *args], m.folder, env=m.environment())
    m.processes.append(process)
    return process


def head(record):
    """Generation, ordinal and op of a record in single-object framing."""
    value, at, longs = record.value(), 10, []
    for _ in range(3):  # the third is the length of op
        n = shift = 0
        while True:
            byte = value[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        longs.append(n >> 1 ^ -(n & 1))
    return longs[0], longs[1], value[at:at + 1].decode()


def changes_of(records):
    """(ordinal, key) of the changes that count: behind a fence lower generations do not."""
    newest, counted = 0, []
    for record in records:
        generation, ordinal, op = head(record)
        if op == "f":
            newest = max(newest, generation)
        if generation >= newest and op in "cudtm":
            counted.append((ordinal, record.key()))
    return counted


def confirmed(m):
    return m.source.value("select confirmed_flush_lsn from pg_replication_slots where slot_name = %s", m.slot)


def test_confirmed_flush_is_never_past_the_first_unacknowledged_commit(migration, mock, programs):
    m = migration(kafka_server=mock, kafka={"partitions": PARTITIONS})
    for kind, partitions in (("control", 1), ("changes", PARTITIONS), ("snapshot", PARTITIONS), ("incidents", 1)):
        mock.command(f"topic {m.topic(kind)} {partitions}")
    m.source.execute("create table t (id int primary key, n int)")
    first = start(m, programs)
    first.wait_log("copy round ends", 60)
    before = m.source.value("select pg_current_wal_lsn()")
    wait_until(lambda: m.source.value("select %s::pg_lsn <= %s::pg_lsn", before, confirmed(m)), 30,
               "all that is acknowledged is confirmed")

    mock.command(f"rtt {HELD + 1} 60000")
    m.source.execute("insert into t select i, 0 from generate_series(1, 100) i")
    unacknowledged = m.source.value("select pg_current_wal_insert_lsn()")
    for i in range(1, 21):
        m.source.execute(f"insert into t select i, {i} from generate_series({i} * 100 + 1, {i} * 100 + 100) i")
        time.sleep(0.1)
    mock.silent = {HELD}
    wait_until(lambda: len(changes_of(mock.consume(m.topic("changes"), [HELD - 1]))) > 400, 30,
               "another partition has taken the changes")
    for _ in range(20):  # feedback goes on meanwhile
        assert m.source.value("select %s::pg_lsn < %s::pg_lsn", confirmed(m), unacknowledged)
        time.sleep(0.1)
    first.kill9()
    assert m.source.value("select %s::pg_lsn < %s::pg_lsn", confirmed(m), unacknowledged)

    mock.command(f"rtt {HELD + 1} 0")
    mock.silent = set()
    second = start(m, programs, "caught-up")
    assert second.wait(60) == 0, second.tail()
    keys = Counter()
    for p in range(PARTITIONS):
        counted = changes_of(mock.consume(m.topic("changes"), [p]))
        assert [ordinal for ordinal, _ in counted] == list(range(1, len(counted) + 1)), f"partition {p}"
        keys.update(key for _, key in counted if key)
    assert len(keys) == 2100 and set(keys.values()) == {1}
    assert m.source.value("select %s::pg_lsn > %s::pg_lsn", confirmed(m), unacknowledged)
