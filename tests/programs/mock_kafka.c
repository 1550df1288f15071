// SPDX-License-Identifier: Apache-2.0
/*
 * mock_kafka - librdkafka's mock cluster in a process of its own, for tests that must hold back one
 * partition's acknowledgements and outlive a killed client.
 *
 *     mock_kafka BROKERS
 *
 * Prints "bootstrap HOST:PORT,..." and then answers commands on stdin, one a line, with "ok":
 *     topic NAME PARTITIONS    partition p is on broker p modulo BROKERS + 1
 *     rtt BROKER MS            every answer of this broker (1, 2, ...) comes MS later
 * It ends with its stdin.
 */
#include <stdio.h>
#include <stdlib.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

static rd_kafka_resp_err_t make_topic(rd_kafka_mock_cluster_t *cluster, int brokers,
				      const char *name, int partitions)
{
	rd_kafka_resp_err_t err = rd_kafka_mock_topic_create(cluster, name, partitions, 1);

	for (int p = 0; p < partitions && !err; p++)
		err = rd_kafka_mock_partition_set_leader(cluster, name, p, p % brokers + 1);
	return err;
}

static void command(rd_kafka_mock_cluster_t *cluster, int brokers, const char *line)
{
	char topic[250];
	int broker, partitions, ms;
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__INVALID_ARG;

	if (sscanf(line, "rtt %d %d", &broker, &ms) == 2)
		err = rd_kafka_mock_broker_set_rtt(cluster, broker, ms);
	else if (sscanf(line, "topic %249s %d", topic, &partitions) == 2)
		err = make_topic(cluster, brokers, topic, partitions);
	printf("%s\n", err ? rd_kafka_err2str(err) : "ok");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	int brokers = argc == 2 ? atoi(argv[1]) : 0, status = 1;
	char text[512], line[512];
	rd_kafka_mock_cluster_t *cluster = NULL;
	rd_kafka_t *client;

	if (brokers < 1) {
		fprintf(stderr, "usage: mock_kafka BROKERS\n");
		return 2;
	}
	client = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), text, sizeof(text));
	if (client)
		cluster = rd_kafka_mock_cluster_new(client, brokers);
	if (!cluster) {
		fprintf(stderr, "mock_kafka: the cluster could not be made\n");
		goto done;
	}
	printf("bootstrap %s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		command(cluster, brokers, line);
	status = 0;
done:
	if (cluster)
		rd_kafka_mock_cluster_destroy(cluster);
	if (client)
		rd_kafka_destroy(client);
	return status;
}
