# SPDX-License-Identifier: Apache-2.0
"""A Kafka broker."""
import base64
import shutil
import uuid

from confluent_kafka import (OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, KafkaError,
                             KafkaException, Producer, TopicPartition)
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

from . import place
from .process import Process, run
from .wait import wait_until


class Kafka:
    """Apache Kafka in KRaft mode: one node, broker and controller, plaintext on 127.0.0.1.

        kafka = Kafka(settings={"message.max.bytes": 1048576}); kafka.format(); kafka.start()
        kafka.bootstrap                       "127.0.0.1:PORT", the same over restarts
        kafka.stop(); kafka.kill9(); kafka.start(); kafka.sigstop/sigcont via kafka.process
        kafka.topics(), create_topic, delete_topics, end_offsets(topic), group_offsets(group),
        kafka.topic_config(topic), consume(topic) -> all records, produce(topic, …)
        snap = kafka.snapshot_logs()          while stopped: keeps a copy of the log directory
        kafka.restore_logs(snap)              while stopped: what was acknowledged since is gone

    Topics are not created by use. Consumer groups join without the rebalance delay; session
    timeouts down to 1 s are allowed. Waiting for answers is bounded everywhere.
    """

    def __init__(self, name="kafka", settings=None):
        self.folder = place.folder(name)
        self.logs = self.folder / "logs"
        self.port = place.free_port()
        self.controller_port = place.free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.properties = self.folder / "server.properties"
        self.libs = place.cache() / "kafka-4.3.1" / "libs"
        self.process = None
        self._admin = None
        if not self.libs.is_dir():
            raise RuntimeError(f"no Kafka in {self.libs}: run tools/setup")
        self.settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "log.dirs": self.logs,
            "num.partitions": 1,
            "auto.create.topics.enable": "false",
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 3,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # A killed broker is let in again only when its last session has run out.
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 500,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "log.segment.delete.delay.ms": 1000,
            **(settings or {}),
        }

    def _java(self, main, *args):
        return ["java", "-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:TieredStopAtLevel=4",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-cp", f"{self.libs}/*", main, *args]

    def format(self):
        self.properties.write_text("".join(f"{k}={v}\n" for k, v in self.settings.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        while cluster.startswith("-"):  # would be read as an option
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        run(self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", self.properties))
        return self

    def start(self, timeout=180):
        """Returns when it answers and has elected itself."""
        self.process = Process("kafka", self._java("kafka.Kafka", self.properties), self.folder)

        def ready():
            assert self.process.running(), f"Kafka ended:\n{self.process.tail()}"
            try:
                return self.admin().list_topics(timeout=2).brokers
            except KafkaException:
                return False
        wait_until(ready, timeout, lambda: f"Kafka to answer:\n{self.process.tail()}")
        return self

    def running(self):
        return self.process is not None and self.process.running()

    def stop(self, timeout=60):
        if self.running():
            self.process.sigcont()
            self.process.stop(timeout)

    def kill9(self):
        self.process.kill9()

    def remove(self):
        """Stops it for good and removes its folder."""
        self._admin = None
        if self.running():
            self.process.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)

    def snapshot_logs(self):
        assert not self.running(), "stop Kafka before its logs are copied"
        copy = place.folder("kafka-logs")
        shutil.copytree(self.logs, copy, dirs_exist_ok=True)
        return copy

    def restore_logs(self, snapshot):
        assert not self.running(), "stop Kafka before its logs are put back"
        shutil.rmtree(self.logs)
        shutil.copytree(snapshot, self.logs)

    def log(self):
        return self.process.log() if self.process else ""

    def admin(self):
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0,
                                       "reconnect.backoff.max.ms": 200}, logger=_quiet)
        return self._admin

    def topics(self, prefix=""):
        """{name: number of partitions}, without Kafka's own."""
        listed = self.admin().list_topics(timeout=10).topics
        return {name: len(topic.partitions) for name, topic in listed.items()
                if name.startswith(prefix) and not name.startswith("__")}

    def create_topic(self, name, partitions=1, **config):
        """create_topic("t", 4, cleanup_policy="compact")"""
        config = {key.replace("_", "."): str(value) for key, value in config.items()}
        for future in self.admin().create_topics(
                [NewTopic(name, partitions, 1, config=config)]).values():
            future.result(30)
        wait_until(lambda: self.topics().get(name) == partitions, 10, f"topic {name}")

    def add_partitions(self, name, total):
        for future in self.admin().create_partitions([NewPartitions(name, total)]).values():
            future.result(30)

    def delete_topics(self, *names):
        """Returns when they are gone; one that is not there is no error."""
        if not names:
            return
        for future in self.admin().delete_topics(list(names)).values():
            try:
                future.result(30)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        wait_until(lambda: not set(names) & set(self.topics()), 30, f"topics {names} to be gone")

    def topic_config(self, name):
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        entries = self.admin().describe_configs([resource])[resource].result(10)
        return {key: entry.value for key, entry in entries.items()}

    def end_offsets(self, topic):
        """{partition: offset behind the last record}"""
        return {p: high for p, (low, high) in self._watermarks(topic).items()}

    def group_offsets(self, group):
        """{(topic, partition): committed offset}"""
        future = self.admin().list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group]
        return {(tp.topic, tp.partition): tp.offset
                for tp in future.result(10).topic_partitions if tp.offset >= 0}

    def group_members(self, group):
        """The members of a consumer group, as confluent_kafka describes them."""
        return self.admin().describe_consumer_groups([group])[group].result(10).members

    def produce(self, topic, value, key=None, partition=0, headers=None):
        """One record, acknowledged on return."""
        failed = []
        producer = Producer({"bootstrap.servers": self.bootstrap, "acks": "all"}, logger=_quiet)
        producer.produce(topic, value=value, key=key, partition=partition, headers=headers,
                         on_delivery=lambda error, _: failed.append(error) if error else None)
        assert producer.flush(30) == 0 and not failed, f"not delivered: {failed}"

    def consume(self, topic, partitions=None, timeout=60):
        """Every record that is in the topic now, as confluent_kafka Messages: each partition's
        in order, partition after partition."""
        wanted = {p: marks for p, marks in self._watermarks(topic).items()
                  if (partitions is None or p in partitions) and marks[1] > marks[0]}
        records = {p: [] for p in wanted}
        reader = self._consumer()
        try:
            reader.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in wanted])
            left = set(wanted)

            def read_to_the_end():
                for message in reader.consume(10000, timeout=0.2):
                    if not message.error():
                        records[message.partition()].append(message)
                    elif message.error().code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(message.error())
                # By position, not by record: compaction may have removed the last ones.
                for place_ in reader.position([TopicPartition(topic, p) for p in left]):
                    if place_.offset >= wanted[place_.partition][1]:
                        left.discard(place_.partition)
                return not left
            if left:
                wait_until(read_to_the_end, timeout, lambda: f"the end of {topic}, partitions {left}",
                           interval=0.001)
        finally:
            reader.close()
        return [m for p in sorted(records) for m in records[p] if m.offset() < wanted[p][1]]

    def _consumer(self):
        return Consumer({"bootstrap.servers": self.bootstrap, "group.id": "rig-reader",
                         "enable.auto.commit": False, "auto.offset.reset": "error",
                         "enable.partition.eof": True, "fetch.max.bytes": 100_000_000,
                         "log_level": 0}, logger=_quiet)

    def _watermarks(self, topic):
        reader = self._consumer()
        try:
            partitions = self.admin().list_topics(topic, timeout=10).topics[topic].partitions
            return {p: self._watermark(reader, TopicPartition(topic, p)) for p in sorted(partitions)}
        finally:
            reader.close()

    @staticmethod
    def _watermark(reader, partition):
        """A broker that has just started may not lead its partitions yet."""
        def ask():
            try:
                return reader.get_watermark_offsets(partition, timeout=10)
            except KafkaException as failure:
                if failure.args[0].code() not in (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE):
                    raise
                return None
        return wait_until(ask, 30, lambda: f"a leader of {partition}")


class _Quiet:
    """librdkafka's own log lines (broker down…) say nothing a test does not see itself."""

    def log(self, *_):
        pass


_quiet = _Quiet()
