# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts in tools/: where the source and the cache of fetched servers are.
# Everything below $FORESHADOW_CACHE can be read by user postgres, who cannot enter /root.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -n "${FORESHADOW_CACHE:-}" ]; then
	cache=$FORESHADOW_CACHE
elif [ "$(id -u)" = 0 ]; then
	cache=/var/cache/foreshadow
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/foreshadow
fi
export FORESHADOW_CACHE=$cache
kafka_libs=$cache/kafka-4.3.1/libs
postgres18=$cache/postgresql-18.1
registry_home=$cache/apicurio-2.6.13
venv=$cache/venv

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
