// SPDX-License-Identifier: Apache-2.0
/*
 * position - ingest alone, on a broker without admin calls (mock_kafka), for the test that the
 * source forgets nothing that Kafka has not acknowledged.
 *
 *     position MIGRATION.yaml [caught-up]
 *
 * The topics must be there. It ends with SIGTERM, SIGKILL, or when it has caught up.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/log.h"
#include "ingest/ingest.h"

static atomic_bool is_stopping;
static int stop_fd;

static void stop(int signal_number)
{
	static const uint64_t one = 1;

	(void)signal_number;
	atomic_store(&is_stopping, true);
	if (write(stop_fd, &one, sizeof(one)) < 0)
		_exit(1);
}

int main(int argc, char **argv)
{
	struct ingest_options options = { .stop = &is_stopping,
					  .instance = "position",
					  .topics_exist = true,
					  .patience_ms = 30000 };
	struct migration m;
	struct fault f = { 0 };
	bool ok;

	if (argc < 2) {
		fprintf(stderr, "usage: position MIGRATION.yaml [caught-up]\n");
		return 2;
	}
	options.until_caught_up = argc > 2 && strcmp(argv[2], "caught-up") == 0;
	options.stop_fd = stop_fd = eventfd(0, EFD_CLOEXEC);
	signal(SIGTERM, stop);
	log_set(LOG_LEVEL_INFO, false);
	log_thread("ingest");
	if (!migration_read(&m, argv[1], &f)) {
		fprintf(stderr, "position: %s\n", f.text);
		return 2;
	}
	ok = ingest_run(&m, &options, NULL, &f);
	if (!ok)
		log_error("%s", f.text);
	migration_release(&m);
	close(stop_fd);
	return ok ? 0 : fault_exit_code(f.kind);
}
