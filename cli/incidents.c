// SPDX-License-Identifier: Apache-2.0
/*
 * incidents - what could not be applied, and what was found to differ: `list`, a line each; `show ID`, all of one, and
 * the change itself as far as it can be read.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "core/log.h"
#include "core/registry.h"
#include "reconcile/incidents.h"

enum { LINE_BYTES = 120, CHANGE_BYTES = 1 << 30, ID_MAX = INCIDENTS_ID_TEXT };

struct incidents {
	struct cli *c;
	int partition; /* show */
	int64_t offset;
	json_t *found; /* show; owned */
	struct registry *registry;
	struct framing *framing;
};

/* ---- a record ---- */

/* As JSON with its id; a record that is none of ours is shown as it is. */
static json_t *record_json(const struct incidents_record *r)
{
	json_t *record = json_loadb(r->json.p ? r->json.p : "", r->json.n, 0, NULL);
	json_t *all = json_object();
	char id[ID_MAX];

	json_object_set_new(all, "id", json_string(incidents_id_format(r, id)));
	if (json_is_object(record))
		json_object_update(all, record);
	else
		json_object_set_new(all, "message", json_string("a record that is no JSON object"));
	json_decref(record);
	return all;
}

static const char *text_of(const json_t *record, const char *name)
{
	const char *text = json_string_value(json_object_get(record, name));

	return text && *text ? text : "-";
}

/* ---- list ---- */

static bool list_one(void *arg, const struct incidents_record *r)
{
	struct incidents *i = arg;
	json_t *record = record_json(r);
	const char *message = text_of(record, "message");
	json_t *key = json_object_get(record, "key");
	char *row = json_is_object(key) ? json_dumps(key, JSON_COMPACT) : NULL;
	size_t n = strcspn(message, "\n");

	if (i->c->json) {
		free(row);
		cli_print_json(record);
		return true;
	}
	for (n = n > LINE_BYTES ? LINE_BYTES : n; n > 0 && ((unsigned char)message[n] & 0xc0) == 0x80;)
		n--;
	printf("%-8s %s  %-7s %-5s  %s  %s  %.*s\n", text_of(record, "id"), text_of(record, "at"), text_of(record, "role"),
	       text_of(record, "sqlstate"), text_of(record, "table"), row ? row : text_of(record, "key"), (int)n, message);
	free(row);
	json_decref(record);
	return true;
}

/* ---- show ---- */

static bool find_one(void *arg, const struct incidents_record *r)
{
	struct incidents *i = arg;

	if (r->partition == i->partition && r->offset == i->offset)
		i->found = record_json(r);
	return !i->found;
}

static bool learn_schema(void *arg, int32_t id, struct fault *f)
{
	struct incidents *i = arg;

	return registry_learn(i->registry, i->framing, id, f);
}

static json_t *value_json(const struct column *column, const struct value *v)
{
	struct buf text;
	json_t *value = NULL;

	if (v->state == VALUE_IS_NULL)
		return json_null();
	if (v->state == VALUE_IS_UNCHANGED)
		return json_pack("{s:b}", "unchanged", 1);
	buf_init(&text, CHANGE_BYTES);
	if (value_add_text(&column->type, v, &text, NULL) && !buf_failed(&text))
		value = json_span(buf_span(&text));
	buf_release(&text);
	return value ? value : json_null();
}

static json_t *row_json(const struct relation *rel, const struct value *values)
{
	json_t *row = values ? json_object() : json_null();

	for (size_t i = 0; values && i < rel->column_count; i++)
		json_object_setn_new_nocheck(row, rel->columns[i].name.p, rel->columns[i].name.n,
					     value_json(&rel->columns[i], &values[i]));
	return row;
}

static bool read_change(struct incidents *i, struct control *control, struct arena *a, struct fault *f)
{
	const char *topic = json_string_value(json_object_get(i->found, "topic"));
	const json_t *partition = json_object_get(i->found, "partition"), *offset = json_object_get(i->found, "offset");
	struct known *known;
	struct tail_row row;
	bool ok;

	if (!topic || !json_is_integer(partition) || !json_is_integer(offset))
		return fault(f, FAULT_INPUT, "the incident does not say where its record is");
	known = known_new(control, f);
	ok = known && incidents_change(&i->c->m, topic, (int)json_integer_value(partition), json_integer_value(offset), known,
				       i->framing, i->registry ? learn_schema : NULL, i, a, &row, f);
	if (ok) {
		json_object_set_new(i->found, "before", row_json(row.rel, row.before));
		json_object_set_new(i->found, "after", row_json(row.rel, row.after));
	}
	known_free(known);
	return ok;
}

/* What cannot be read is said in its place: the incident itself is shown in any case. */
static void add_change(struct incidents *i)
{
	const struct migration *m = &i->c->m;
	struct kafka_conf conf = { m->kafka, m->kafka_count, m->slot };
	struct control *control = NULL;
	struct fault f = { 0 };
	struct arena a;

	arena_init(&a, CHANGE_BYTES);
	i->framing = framing_new(m->registry_url ? FRAMING_CONFLUENT : FRAMING_SINGLE_OBJECT);
	i->registry = m->registry_url ? registry_new(m->registry_url, &f) : NULL;
	if (i->framing && (i->registry || !m->registry_url))
		control = control_open(&conf, m->control_topic, &f);
	if (!control || !read_change(i, control, &a, &f))
		json_object_set_new(i->found, "change_unread", json_string(f.text));
	control_close(control);
	registry_free(i->registry);
	framing_free(i->framing);
	arena_release(&a);
}

static void print_all(const json_t *record)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)record, name, value) {
		char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

		printf("%-13s %s\n", name, text ? text : json_string_value(value));
		free(text);
	}
}

static bool show(struct incidents *i, const char *id, struct fault *f)
{
	if (!incidents_id_parse(id, &i->partition, &i->offset))
		return fault(f, FAULT_USAGE, "incidents show %s: wanted an id as incidents list prints it, such as 0:3", id);
	if (!incidents_each(&i->c->m, find_one, i, f))
		return false;
	if (!i->found)
		return fault(f, FAULT_USAGE, "topic %s has no incident %s; foreshadow incidents %s list shows them",
			     i->c->m.incidents_topic, id, i->c->m.path);
	if (json_object_get(i->found, "offset")) /* else it is about a row, not a record */
		add_change(i);
	if (i->c->json)
		cli_print_json(json_incref(i->found));
	else
		print_all(i->found);
	json_decref(i->found);
	return true;
}

bool cmd_incidents(struct cli *c, struct fault *f)
{
	struct incidents i = { .c = c };

	if (c->word_count == 1 && strcmp(c->words[0], "list") == 0)
		return incidents_each(&c->m, list_one, &i, f);
	if (c->word_count == 2 && strcmp(c->words[0], "show") == 0)
		return show(&i, c->words[1], f);
	return fault(f, FAULT_USAGE, "foreshadow incidents: wanted migration.yaml list, or migration.yaml show ID");
}
