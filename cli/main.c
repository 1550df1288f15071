// SPDX-License-Identifier: Apache-2.0
/* main - the command table, the option table, and the way from a fault to an exit code. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "core/conf.h"
#include "core/log.h"

enum { FOR_CHECK = 1, FOR_RUN = 2, FOR_STATUS = 4, FOR_DROP = 8, FOR_VERIFY = 16, FOR_INCIDENTS = 32, FOR_ALL = 63 };

static const struct command {
	const char *name;
	int bit;
	const char *help;
	bool (*run)(struct cli *c, struct fault *f);
	const char *words; /* what may follow the file, for the usage; NULL: nothing */
} commands[] = {
	{ "check", FOR_CHECK, "look at source, targets and Kafka before anything runs: a verdict and a remedy per item",
	  cmd_check },
	{ "run", FOR_RUN, "run the migration: copy, follow, apply; SIGTERM drains and exits 0", cmd_run },
	{ "status", FOR_STATUS, "where everything stands", cmd_status },
	{ "verify", FOR_VERIFY, "compare the targets with the source, now: prints every difference, exits 4 if there is one",
	  cmd_verify },
	{ "incidents", FOR_INCIDENTS, "what could not be applied: list, or show ID with the change", cmd_incidents,
	  "list | show ID" },
	{ "drop", FOR_DROP, "remove slot, publication, topics, groups and our rows; never a table of the target",
	  cmd_drop },
};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

enum { OPT_HELP = 1, OPT_VERSION, OPT_JSON, OPT_WATCH, OPT_YES, OPT_ROLE, OPT_UNTIL, OPT_INSTANCE, OPT_TABLE, OPT_FINAL, OPT_HTML,
       OPT_REPAIR };

static const struct option_row {
	const char *name, *value;
	int id, commands;
	const char *help;
} options[] = {
	{ "help", NULL, OPT_HELP, FOR_ALL, "this text" },
	{ "json", NULL, OPT_JSON, FOR_ALL, "print JSON: an object, or an object a line" },
	{ "watch", NULL, OPT_WATCH, FOR_STATUS, "repaint every second until interrupted" },
	{ "yes", NULL, OPT_YES, FOR_DROP, "do not ask" },
	{ "role", "ROLE", OPT_ROLE, FOR_RUN | FOR_VERIFY,
	  "only ingest, shadow, primary or reconcile; verify: shadow or primary (default: all)" },
	{ "table", "TABLE", OPT_TABLE, FOR_VERIFY, "only this table, by its name on the source or on the targets" },
	{ "final", NULL, OPT_FINAL, FOR_VERIFY,
	  "before switching over, with the source's writes stopped: also sequences, constraints, indexes, triggers" },
	{ "repair", NULL, OPT_REPAIR, FOR_VERIFY,
	  "what differs is set right: the source's row, written by the partition's owner, which must be running" },
	{ "html", "FILE", OPT_HTML, FOR_VERIFY, "--final: write the report as a page, too" },
	{ "until", "LSN|caught-up", OPT_UNTIL, FOR_RUN, "stop cleanly there" },
	{ "instance", "NAME", OPT_INSTANCE, FOR_RUN, "name of this process among those of its role (default: host name)" },
	{ "version", NULL, OPT_VERSION, FOR_ALL, "print the version" },
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

void cli_print_json(json_t *object)
{
	json_dumpf(object, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(object);
}

static void print_usage(FILE *out)
{
	fprintf(out, "usage: foreshadow COMMAND migration.yaml [options]\n\n"
		     "Moves a live PostgreSQL database to another one, and rehearses every change on a shadow.\n\n");
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].help);
	fprintf(out, "\nforeshadow COMMAND --help shows a command's options; foreshadow --version the version.\n"
		     "Exit codes: 0 done, 1 failed, 2 usage or YAML wrong, 3 stopped for a decision, "
		     "4 verification found a difference.\n");
}

static void print_command_usage(const struct command *cmd)
{
	printf("usage: foreshadow %s migration.yaml %s%s[options]\n\n%s\n\n", cmd->name, cmd->words ? cmd->words : "",
	       cmd->words ? " " : "", cmd->help);
	for (size_t i = 0; i < OPTIONS; i++) {
		char left[64];
		if (!(options[i].commands & cmd->bit))
			continue;
		snprintf(left, sizeof(left), "--%s%s%s", options[i].name, options[i].value ? " " : "",
			 options[i].value ? options[i].value : "");
		printf("  %-22s %s\n", left, options[i].help);
	}
}

static int refuse_command(const char *seen)
{
	const char *names[COMMANDS];

	for (size_t i = 0; i < COMMANDS; i++)
		names[i] = commands[i].name;
	fprintf(stderr, "foreshadow: there is no command '%s'; the nearest is %s; foreshadow --help shows them all\n", seen,
		conf_nearest(seen, names, COMMANDS));
	return 2;
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static void take_option(struct cli *c, int id, const char *value)
{
	switch (id) {
	case OPT_JSON:
		c->json = true;
		break;
	case OPT_WATCH:
		c->watch = true;
		break;
	case OPT_YES:
		c->yes = true;
		break;
	case OPT_ROLE:
		c->role = value;
		break;
	case OPT_UNTIL:
		c->until = value;
		break;
	case OPT_INSTANCE:
		c->instance = value;
		break;
	case OPT_TABLE:
		c->table = value;
		break;
	case OPT_FINAL:
		c->final = true;
		break;
	case OPT_REPAIR:
		c->repair = true;
		break;
	case OPT_HTML:
		c->html = value;
		break;
	}
}

static const struct option_row *find_option(int id)
{
	for (size_t i = 0; i < OPTIONS; i++)
		if (options[i].id == id)
			return &options[i];
	return NULL;
}

/* What getopt_long did not take. seen: the word; known: the option it is, with too much or too little. */
static void refuse_option(const struct command *cmd, const char *seen, const struct option_row *known)
{
	const char *names[OPTIONS];
	size_t n = 0;

	for (size_t i = 0; i < OPTIONS; i++)
		if (options[i].commands & cmd->bit)
			names[n++] = options[i].name;
	fprintf(stderr, "foreshadow %s: ", cmd->name);
	if (known && known->value)
		fprintf(stderr, "--%s wants a value: %s", known->name, known->value);
	else if (known)
		fprintf(stderr, "--%s takes no value", known->name);
	else
		fprintf(stderr, "unknown option %s; the nearest is --%s", seen,
			conf_nearest(seen + strspn(seen, "-"), names, n));
	fprintf(stderr, "; foreshadow %s --help shows them all\n", cmd->name);
}

/* The YAML's path, or NULL: then *ret_exit is the exit code. */
static const char *parse_options(struct cli *c, const struct command *cmd, int argc, char **argv, int *ret_exit)
{
	struct option longopts[OPTIONS + 1] = { 0 };
	int id;

	for (size_t i = 0; i < OPTIONS; i++)
		longopts[i] = (struct option) { options[i].name, options[i].value ? required_argument : no_argument,
						NULL, options[i].id };
	*ret_exit = 2;
	while ((id = getopt_long(argc, argv, ":", longopts, NULL)) != -1) {
		if (id == '?' || id == ':') {
			refuse_option(cmd, argv[optind - 1], find_option(optopt));
			return NULL;
		}
		if (id == OPT_HELP || id == OPT_VERSION) {
			*ret_exit = 0;
			if (id == OPT_HELP)
				print_command_usage(cmd);
			else
				puts("foreshadow " FORESHADOW_VERSION);
			return NULL;
		}
		if (!(find_option(id)->commands & cmd->bit)) {
			fprintf(stderr, "foreshadow %s: --%s is not an option of this command; see --help\n", cmd->name,
				find_option(id)->name);
			return NULL;
		}
		take_option(c, id, optarg);
	}
	if (argc - optind < 1 || (argc - optind > 1 && !cmd->words)) {
		fprintf(stderr, "foreshadow %s: wanted one migration.yaml, got %d arguments; see --help\n", cmd->name,
			argc - optind);
		return NULL;
	}
	c->words = argv + optind + 1;
	c->word_count = argc - optind - 1;
	return argv[optind];
}

static int run_command(const struct command *cmd, int argc, char **argv)
{
	struct cli c = { 0 };
	struct fault f = { 0 };
	int exit_code;
	const char *yaml = parse_options(&c, cmd, argc, argv, &exit_code);

	if (!yaml)
		return exit_code;
	/* What run writes is its log; the others write a report, and their log is for people. */
	log_set(getenv("FORESHADOW_DEBUG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, c.json && cmd->bit == FOR_RUN);
	if (migration_read(&c.m, yaml, &f) && cmd->run(&c, &f))
		exit_code = c.exit_code;
	else {
		log_error("%s", f.text);
		exit_code = fault_exit_code(f.kind);
	}
	migration_release(&c.m);
	return exit_code;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc < 2) {
		print_usage(stderr);
		return 2;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
		print_usage(stdout);
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("foreshadow " FORESHADOW_VERSION);
		return 0;
	}
	const struct command *cmd = find_command(argv[1]);
	return cmd ? run_command(cmd, argc - 1, argv + 1) : refuse_command(argv[1]);
}
