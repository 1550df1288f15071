// SPDX-License-Identifier: Apache-2.0
#include "core/json.h"

#include "core/lsn.h"

json_t *json_span(struct span s)
{
	json_t *text = s.p ? json_stringn(s.p, s.n) : NULL;

	return text ? text : json_null();
}

json_t *json_lsn(uint64_t lsn)
{
	char text[LSN_TEXT];

	return json_string(lsn_format(lsn, text));
}
