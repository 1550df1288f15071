// SPDX-License-Identifier: Apache-2.0
/* log, and failpoint, which speaks through it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/failpoint.h"
#include "core/log.h"

static char seen[65536];

/* Runs body with stderr into `seen`. */
static void capture(void (*body)(void))
{
	int saved = dup(STDERR_FILENO);
	FILE *file = tmpfile();
	size_t n;

	dup2(fileno(file), STDERR_FILENO);
	body();
	dup2(saved, STDERR_FILENO);
	close(saved);
	rewind(file);
	n = fread(seen, 1, sizeof(seen) - 1, file);
	seen[n] = 0;
	fclose(file);
}

static void say_two_lines(void)
{
	log_thread("shadow/lane 2");
	log_info("copied table=%s\nrows=%d", "public.orders", 7);
	log_debug("not at this level");
	log_thread(NULL);
	log_error("plain");
}

static void an_event_is_one_line_with_level_and_role(void **state)
{
	(void)state;
	log_set(LOG_LEVEL_INFO, false);
	capture(say_two_lines);
	assert_non_null(strstr(seen, "Z INFO  shadow/lane 2: copied table=public.orders rows=7\n"));
	assert_non_null(strstr(seen, "Z ERROR plain\n"));
	assert_null(strstr(seen, "not at this level"));
}

static void say_quotes(void)
{
	log_thread("ingest");
	log_warn("a \"b\" \\ \n\x01");
	log_thread(NULL);
}

static void json_lines_are_json(void **state)
{
	(void)state;
	log_set(LOG_LEVEL_INFO, true);
	capture(say_quotes);
	log_set(LOG_LEVEL_INFO, false);
	assert_non_null(strstr(seen, "\"level\":\"warn\",\"role\":\"ingest\",\"message\":"
				     "\"a \\\"b\\\" \\\\ \\u000a\\u0001\"}\n"));
}

static void say_secrets(void)
{
	static char filler[20000];

	log_info("user=app password=canary-12 and canary-12345 end");
	memset(filler, 'x', 16380);
	log_info("%scanary-12345", filler); /* the line's end falls into the secret */
}

static void secrets_are_starred_out(void **state)
{
	char text[] = "cut canary-1";

	(void)state;
	log_secret("canary-12");
	log_secret("canary-12345");
	log_secret("canary-12345");
	log_secret("");
	log_secret(NULL);
	log_secret("an"); /* too short to be hidden without telling */
	capture(say_secrets);
	assert_non_null(strstr(seen, "password=*** and *** end\n"));
	assert_null(strstr(seen, "canary"));
	assert_null(strstr(seen, "xcan"));
	log_redact(text); /* the beginning of one at the end of a text that was cut */
	assert_string_equal(text, "cut ***");
}

#ifdef FAILPOINTS
static void pass_failpoints(void)
{
	for (int i = 1; i <= 4; i++) {
		assert_int_equal(failpoint("test.error"), i == 3);
		assert_false(failpoint("test.other"));
	}
}

static void a_failpoint_fires_once_at_its_pass(void **state)
{
	(void)state;
	capture(pass_failpoints);
	assert_non_null(strstr(seen, "failpoint test.error fired\n"));
}

static void a_crash_is_a_kill(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		close(STDERR_FILENO);
		failpoint("test.crash");
		_exit(0);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}
#else
static void failpoints_are_nothing_in_other_builds(void **state)
{
	(void)state;
	assert_false(failpoint("test.error"));
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_event_is_one_line_with_level_and_role),
		cmocka_unit_test(json_lines_are_json),
		cmocka_unit_test(secrets_are_starred_out),
#ifdef FAILPOINTS
		cmocka_unit_test(a_failpoint_fires_once_at_its_pass),
		cmocka_unit_test(a_crash_is_a_kill),
#else
		cmocka_unit_test(failpoints_are_nothing_in_other_builds),
#endif
	};

	setenv("FORESHADOW_FAILPOINTS", "test.error=error@3;test.crash=crash", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
