// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/child.h"

static bool run_shell(const char *script, int stop_fd, struct buf *out, struct fault *f)
{
	const char *argv[] = { "sh", "-c", script, NULL };

	return child_run(&(struct child) { argv, NULL, out, stop_fd }, f);
}

static void assert_failed(const char *script, int stop_fd, enum fault_kind kind, const char *words)
{
	struct fault f = { 0 };

	assert_false(run_shell(script, stop_fd, NULL, &f));
	assert_int_equal(f.kind, kind);
	assert_non_null(strstr(f.text, words));
}

static void its_output_and_the_end_of_its_errors_arrive(void **state)
{
	const char *const env[] = { "COLOUR=red", NULL };
	const char *const argv[] = { "sh", "-c", "echo $COLOUR", NULL };
	struct fault f = { 0 };
	struct buf out;

	(void)state;
	buf_init(&out, 100);
	assert_true(child_run(&(struct child) { argv, env, &out, -1 }, &f));
	assert_string_equal(buf_cstr(&out), "red\n");
	buf_release(&out);
	assert_failed("echo first >&2; echo the reason >&2; exit 3", -1, FAULT_STOP, "exit code 3: first\nthe reason");
}

static void a_program_that_is_not_there_is_named(void **state)
{
	const char *const argv[] = { "no-such-program", NULL };
	struct fault f = { 0 };

	(void)state;
	assert_false(child_run(&(struct child) { argv, NULL, NULL, -1 }, &f));
	assert_int_equal(f.kind, FAULT_STOP);
	assert_string_equal(f.text,
			    "cannot run no-such-program: No such file or directory; install it or put it on PATH");
}

static void signals_that_we_block_or_ignore_reach_it(void **state)
{
	sigset_t set, before;

	(void)state;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, &before);
	signal(SIGPIPE, SIG_IGN);
	assert_failed("kill -TERM $$; exit 0", -1, FAULT_ENVIRONMENT, "ended by signal 15");
	assert_failed("kill -PIPE $$; exit 0", -1, FAULT_ENVIRONMENT, "ended by signal 13");
	signal(SIGPIPE, SIG_DFL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void a_request_to_stop_ends_it(void **state)
{
	int stop_fd = eventfd(1, EFD_CLOEXEC);

	(void)state;
	assert_failed("exec sleep 1000", stop_fd, FAULT_ENVIRONMENT, "sh was stopped");
	assert_failed("trap 'exit 1' TERM; while :; do sleep 0.1; done", stop_fd, FAULT_ENVIRONMENT, "sh was stopped");
	close(stop_fd);
}

/* Both write ends of the pipe are gone when the child of the killed process is. */
static void it_ends_when_we_are_killed(void **state)
{
	char script[100], said[8];
	int ends[2];

	(void)state;
	assert_int_equal(pipe(ends), 0);
	snprintf(script, sizeof(script), "echo here >&%d; exec sleep 1000", ends[1]);
	pid_t we = fork();
	if (we == 0)
		_exit(run_shell(script, -1, NULL, &(struct fault) { 0 }));
	close(ends[1]);
	assert_int_equal(read(ends[0], said, sizeof(said)), 5);
	kill(we, SIGKILL);
	assert_int_equal(waitpid(we, NULL, 0), we);
	struct pollfd p = { ends[0], POLLIN, 0 };
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(read(ends[0], said, sizeof(said)), 0);
	close(ends[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(its_output_and_the_end_of_its_errors_arrive),
		cmocka_unit_test(a_program_that_is_not_there_is_named),
		cmocka_unit_test(signals_that_we_block_or_ignore_reach_it),
		cmocka_unit_test(a_request_to_stop_ends_it),
		cmocka_unit_test(it_ends_when_we_are_killed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
