// SPDX-License-Identifier: Apache-2.0
/*
 * cli - what the commands share: the parsed command line, and how a report is printed.
 *
 * A command is a row of the table in main.c and a file of its own. It returns true or a fault; main turns the
 * fault into a message and an exit code, unless the command set exit_code itself.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "core/json.h"
#include "core/lsn.h"
#include "core/migration.h"

struct cli {
	struct migration m;
	/* options; what was not given is NULL or false */
	const char *role, *until, *instance, *table, *html;
	bool json, watch, yes, final, repair;
	char **words;       /* behind the file: of commands that take some */
	int word_count;
	int exit_code;      /* set by a command that ran well but has something to say */
};

bool cmd_check(struct cli *c, struct fault *f);
bool cmd_run(struct cli *c, struct fault *f);
bool cmd_status(struct cli *c, struct fault *f);
bool cmd_verify(struct cli *c, struct fault *f);
bool cmd_incidents(struct cli *c, struct fault *f);
bool cmd_drop(struct cli *c, struct fault *f);

/* One line of JSON on stdout; takes the object over. */
void cli_print_json(json_t *object);

#endif
