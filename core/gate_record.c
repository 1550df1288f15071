// SPDX-License-Identifier: Apache-2.0
#include "core/gate_record.h"

#include <jansson.h>
#include <stdio.h>

#include "core/log.h"

enum { VALUE_BYTES = 4096 };

static const char gate_key[] = "gate/shadow";

bool gate_record_parse(struct span value, struct boundary *ret)
{
	json_t *object = json_loadb(value.p ? value.p : "", value.n, JSON_REJECT_DUPLICATES, NULL);
	const char *text = json_string_value(json_object_get(object, "lsn"));
	bool ok = text && lsn_parse(span_str(text), &ret->v);

	json_decref(object);
	return ok;
}

struct boundary gate_record_get(struct control *c)
{
	struct boundary b = { 0 };
	struct arena a;
	struct span value;

	arena_init(&a, VALUE_BYTES);
	value = control_get(c, span_str(gate_key), &a);
	if (value.p && !gate_record_parse(value, &b)) {
		log_warn("control record %s is not a gate: %.*s", gate_key, SPAN_ARG(value));
		b.v = 0;
	}
	arena_release(&a);
	return b;
}

bool gate_record_put(struct control *c, struct boundary b, int timeout_ms, struct fault *f)
{
	char lsn[LSN_TEXT], text[64];

	if (boundary_cmp(b, gate_record_get(c)) <= 0)
		return true;
	snprintf(text, sizeof(text), "{\"lsn\": \"%s\"}", lsn_format(b.v, lsn));
	return control_put(c, span_str(gate_key), span_str(text), timeout_ms, f);
}
