// SPDX-License-Identifier: Apache-2.0
#include "shadow/role.h"

const struct role_traits *role_traits(enum role role)
{
	static const struct role_traits rows[] = {
		[ROLE_SHADOW] = { "shadow", "foreshadow shadow", false },
		[ROLE_PRIMARY] = { "primary", "foreshadow primary", true },
	};

	return &rows[role];
}
