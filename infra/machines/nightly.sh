#!/usr/bin/env bash
# nightly.sh [YYYY-MM-DD]: the night's run against the Ray of this machine; promptmill-nightly.service calls it.
#
# The driver is this process: its exit status is the run's (0 done, 1 failed and to be run again, 2 a mistake of yours,
# which no retry mends), its log is the journal, and `systemctl stop` reaches it.
set -euo pipefail

day=${1:-$(date -u +%F)}
bin=${PROMPTMILL_BIN:-/opt/promptmill/bin}
export RAY_AUTH_MODE=token RAY_ADDRESS=${RAY_ADDRESS:-${RAY_HEAD:?RAY_HEAD: the address of the head machine}:6379}
exec "$bin/promptmill" nightly "${NIGHTLY_CONFIG:-/etc/promptmill/nightly.yaml}" --date "$day"
