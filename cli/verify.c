// SPDX-License-Identifier: Apache-2.0
/*
 * verify - compare the targets with the source, now: a line per difference, then per table, then what is out of balance,
 * then the sum.
 *
 * Exit code 4: a difference is certain. 1: none, but not everything could be compared; what is left is named.
 * --repair: what differs is set right, a line each; 0 if all of it was, and nothing else is left.
 * --final: also what stands beside the rows, at one moment (verify_final.h); 4 also when a check failed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/verify_final.h"
#include "core/incident_topic.h"
#include "core/log.h"
#include "core/registry.h"
#include "reconcile/difference.h"
#include "reconcile/reconcile.h"

enum { EXIT_DIFFERENCE = 4 };

struct verify {
	bool json, is_final, repairs;
	struct html *page; /* NULL: none is wanted */
	struct registry *registry;
	struct framing *framing;
	struct incident_topic *incidents;
	size_t unverified_count;
};

/* ---- lines ---- */

static void print_part(json_t *line, const char *name)
{
	json_t *part = json_object_get(line, name);
	char *text = json_dumps(part, JSON_COMPACT | JSON_ENCODE_ANY);

	if (text && !json_is_null(part))
		printf("  %s %s", name, text);
	free(text);
}

static void add_to_page(struct html *page, const struct difference *d, json_t *line)
{
	char *text = json_dumps(line, JSON_COMPACT);

	html_difference(page, d->digest->label, difference_kind(d), span_str(text ? text : ""));
	free(text);
}

static void say_check(void *arg, const struct final_result *r)
{
	struct verify *v = arg;

	verify_final_check(r, v->json);
	if (v->page)
		html_check(v->page, r);
}

static void say_difference(void *arg, const struct difference *d)
{
	struct verify *v = arg;
	json_t *line = difference_json(d);
	struct fault why = { 0 };

	if (!incident_topic_send(v->incidents, d->key, difference_incident(d, 0), &why))
		log_warn("incident not written: %s", why.text);
	if (v->page)
		add_to_page(v->page, d, line);
	if (v->json) {
		cli_print_json(line);
		return;
	}
	printf("%-10s %.*s on the %s", difference_kind(d), SPAN_ARG(d->digest->label), ends_role_names[d->role]);
	print_part(line, "key");
	print_part(line, "source");
	print_part(line, "target");
	print_part(line, "source_rows");
	print_part(line, "target_rows");
	print_part(line, "since_lsn");
	print_part(line, "hop");
	if (d->written_at.p) {
		print_part(line, "writer");
		print_part(line, "written_at");
	}
	putchar('\n');
	json_decref(line);
}

static void say_repair(void *arg, const struct repair *r, const struct repair_item *item)
{
	struct verify *v = arg;
	json_t *line = json_pack("{s:o, s:o, s:s, s:s, s:b, s:s?}", "table", json_span(r->digest->label), "key",
				 difference_key_json(r->digest, item->texts), "kind", item->kind, "role", ends_role_names[r->role],
				 "repaired", (int)item->is_repaired, "reason", item->reason);

	if (v->json) {
		cli_print_json(line);
		return;
	}
	printf("%-10s %.*s on the %s", item->is_repaired ? "repaired" : "not repaired", SPAN_ARG(r->digest->label),
	       ends_role_names[r->role]);
	print_part(line, "key");
	printf("%s%s\n", item->reason ? ": " : "", item->reason ? item->reason : "");
	json_decref(line);
}

static void say_table(void *arg, const struct reconcile_table *t)
{
	struct verify *v = arg;
	FILE *out = v->json ? stderr : stdout;

	v->unverified_count += t->unverified != NULL || t->result.open_count > 0;
	if (v->is_final)
		verify_final_table(t, v->json);
	if (v->page)
		html_table(v->page, t);
	if (v->json && !t->unverified && !t->result.open_count && !t->skipped_count)
		return;
	fprintf(out, "%.*s on the %s: %" PRId64 " rows, %zu differences, %zu explained by changes under way",
		SPAN_ARG(t->label), ends_role_names[t->role], t->result.row_count, t->result.found_count,
		t->result.explained_count);
	if (t->result.open_count)
		fprintf(out, ", %zu rows not judged: they changed all the time", t->result.open_count);
	for (size_t i = 0; i < t->skipped_count; i++)
		fprintf(out, "%s%.*s", i ? ", " : "; not compared, its type is not on the source: ",
			SPAN_ARG(t->skipped[i]));
	if (t->unverified)
		fprintf(out, "; not verified: %s", t->unverified);
	putc('\n', out);
}

/* Rows that were judged, of those in tables that were compared; tables left out count as tables. */
static double coverage(const struct reconcile_summary *s)
{
	double rows = s->row_count ? 1 - (double)s->open_count / (double)s->row_count
				   : s->open_count == 0;
	double tables = s->table_count ? 1 - (double)s->unverified_count / (double)s->table_count : 0;

	return (rows > 0 ? rows : 0) * tables;
}

static void say_summary(const struct verify *v, const struct reconcile_summary *s, bool ok)
{
	bool is_whole = ok && !s->open_count && !s->unverified_count && !s->is_unproven;
	const char *verdict = s->found_count > s->repaired_count ? "diverged"
			      : s->final.failed_checks	       ? "failed"
			      : !is_whole		       ? "incomplete"
			      : s->found_count		       ? "repaired"
							       : "clean";
	char lsn[LSN_TEXT];

	if (v->is_final)
		verdict = verify_final_verdict(s);
	if (v->json) {
		json_t *sum = json_pack("{s:s, s:I, s:I, s:I, s:f, s:o, s:b}", "verdict", verdict, "tables",
					(json_int_t)s->table_count, "rows", (json_int_t)s->row_count, "differences",
					(json_int_t)s->found_count, "coverage", coverage(s), "lsn",
					s->lsn ? json_lsn(s->lsn) : json_null(), "proof", (int)s->has_proof);

		if (v->is_final)
			json_object_update_new(sum, json_pack("{s:b, s:I, s:I}", "quiet", (int)s->final.is_quiet, "failed_checks",
							      (json_int_t)s->final.failed_checks, "unjudged_checks",
							      (json_int_t)s->final.unjudged_checks));
		if (v->repairs)
			json_object_update_new(sum, json_pack("{s:I, s:I}", "repaired", (json_int_t)s->repaired_count,
							      "not_repaired",
							      (json_int_t)(s->found_count - s->repaired_count)));
		cli_print_json(sum);
		return;
	}
	if (v->repairs)
		printf("repaired %zu, not repaired %zu\n", s->repaired_count, s->found_count - s->repaired_count);
	printf("%s: %zu tables, %" PRId64 " rows, %zu differences, coverage %.6g, from %s on; %s\n", verdict,
	       s->table_count, s->row_count, s->found_count, coverage(s), lsn_format(s->lsn, lsn),
	       s->has_proof     ? "a planted difference was found"
	       : !s->lsn        ? "nothing was compared"
	       : s->is_unproven ? "a planted difference could not be judged"
				: "no row to plant a difference in, so nothing proves that one would be found");
}

/* ---- the command ---- */

static bool learn_schema(void *arg, int32_t id, struct fault *f)
{
	struct verify *v = arg;

	return registry_learn(v->registry, v->framing, id, f);
}

static bool choose_roles(struct reconcile_options *o, const char *role, struct fault *f)
{
	for (int i = 0; i < 2; i++)
		o->roles[i] = !role || strcmp(role, ends_role_names[i]) == 0;
	if (o->is_final && o->repairs)
		return fault(f, FAULT_USAGE, "--final only looks: run verify --repair before it, while foreshadow run is running");
	if (o->is_final && (role || o->table))
		return fault(f, FAULT_USAGE, "--final compares all tables of both targets: leave --table and --role out");
	return o->roles[0] || o->roles[1] ||
	       fault(f, FAULT_USAGE, "--role %s: wanted shadow or primary", role);
}

static bool verify_run(struct cli *c, struct verify *v, struct reconcile_summary *ret, struct fault *f)
{
	struct reconcile_options options = { .table = c->table, .is_final = c->final, .repairs = c->repair };
	const struct reconcile_report report = { say_difference, say_table, say_check, say_repair, v };
	struct kafka_conf conf = { c->m.kafka, c->m.kafka_count, c->m.slot };
	struct control *control;
	bool ok;

	if (!choose_roles(&options, c->role, f))
		return false;
	v->incidents = incident_topic_new(&c->m);
	if (!v->incidents)
		return fault(f, FAULT_INTERNAL, "out of memory");
	v->framing = framing_new(c->m.registry_url ? FRAMING_CONFLUENT : FRAMING_SINGLE_OBJECT);
	v->registry = c->m.registry_url ? registry_new(c->m.registry_url, f) : NULL;
	options.learn = v->registry ? learn_schema : NULL;
	options.arg = v;
	control = v->framing && (v->registry || !c->m.registry_url)
			  ? control_open(&conf, c->m.control_topic, f)
			  : NULL;
	ok = control && reconcile_verify(&c->m, control, v->framing, &options, &report, ret, f);
	control_close(control);
	incident_topic_free(v->incidents);
	registry_free(v->registry);
	framing_free(v->framing);
	return ok;
}

/* Of what was compared. */
static int exit_of(const struct verify *v, const struct reconcile_summary *s)
{
	if (s->found_count > s->repaired_count || s->final.failed_checks)
		return EXIT_DIFFERENCE;
	if (!s->open_count && !s->unverified_count && !s->is_unproven)
		return 0;
	log_error("no difference is left, but not everything could be compared: %zu tables are left%s", v->unverified_count,
		  s->is_unproven ? "; a planted difference could not be judged: a server refuses the tables, or an old transaction on the source must end" : "");
	return 1;
}

static int exit_of_final(const struct reconcile_summary *s)
{
	static const int codes[] = { [FINAL_READY] = 0, [FINAL_NOT_READY] = EXIT_DIFFERENCE, [FINAL_UNJUDGED] = 1 };
	enum final_verdict verdict = final_decide(&s->final);

	if (verdict == FINAL_NOT_READY)
		log_error("not ready: %zu differences, %zu checks failed", s->found_count, s->final.failed_checks);
	else if (verdict == FINAL_UNJUDGED && s->final.is_quiet)
		log_error("no verdict: %zu checks and %zu tables could not be judged", s->final.unjudged_checks,
			  s->unverified_count);
	return codes[verdict];
}

static bool finish(struct cli *c, struct verify *v, const struct reconcile_summary *s, bool ok, struct fault *f)
{
	struct fault of_page = { 0 };
	bool has_page;

	say_summary(v, s, ok);
	fflush(stdout);
	has_page = !v->page || verify_final_page(c, v->page, s, coverage(s), ok ? NULL : f->text, &of_page);
	if (!ok && !c->final && s->found_count == s->repaired_count && !s->final.failed_checks)
		return false;
	if (!ok)
		log_error("%s", f->text);
	c->exit_code = c->final ? exit_of_final(s) : exit_of(v, s);
	if (!has_page && c->exit_code)
		log_error("%s", of_page.text);
	return has_page || c->exit_code || fault(f, of_page.kind, "%s", of_page.text);
}

bool cmd_verify(struct cli *c, struct fault *f)
{
	struct verify v = { .json = c->json, .is_final = c->final, .repairs = c->repair };
	struct reconcile_summary summary = { 0 };
	struct html page;
	bool ok;

	if (c->html && !c->final)
		return fault(f, FAULT_USAGE, "--html FILE is the page of --final: give both");
	html_init(&page);
	v.page = c->html ? &page : NULL;
	ok = verify_run(c, &v, &summary, f);
	if (ok || f->kind != FAULT_USAGE)
		ok = finish(c, &v, &summary, ok, f);
	html_release(&page);
	return ok;
}
