// SPDX-License-Identifier: Apache-2.0
#include "shadow/scale.h"

/* Shares of a lane's time. */
#define IDLE 0.05
#define FULL 0.95

static int scale_wanted(const struct scale *s, double load, int64_t now_us)
{
	if (load > s->lanes * FULL && s->lanes < s->max && now_us >= s->up_us)
		return s->lanes + 1;
	if (load > IDLE && load < (s->lanes - 1) * FULL && now_us >= s->down_us)
		return s->lanes - 1;
	return s->lanes;
}

int scale_ask(struct scale *s, double load, int64_t now_us)
{
	int wanted = scale_wanted(s, load, now_us);

	s->windows = wanted == s->asked ? s->windows + 1 : 1;
	s->asked = wanted;
	return s->windows >= (wanted > s->lanes ? SCALE_UP_WINDOWS : SCALE_DOWN_WINDOWS) ? wanted : s->lanes;
}

void scale_set(struct scale *s, int lanes, int64_t now_us)
{
	if (lanes > s->lanes)
		s->down_us = now_us + SCALE_HOLD_US;
	s->lanes = lanes;
	s->asked = s->windows = 0;
}

void scale_hold(struct scale *s, int64_t now_us)
{
	s->up_us = s->down_us = now_us + SCALE_HOLD_US;
	s->asked = s->windows = 0;
}
