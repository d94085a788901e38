#!/usr/bin/env bash
# ray-node.sh head | worker: starts Ray on a machine of its own and stays with it; systemd's ExecStart, or a terminal's.
#
# Settings come from the environment (/etc/promptmill/ray.env under systemd):
#   RAY_HEAD          address of the head's machine, as the workers see it               (required)
#   NODE_ADDRESS      this machine's own address                                         (default: RAY_HEAD on the head)
#   RAY_AUTH_TOKEN_PATH  file with the cluster's token, the same on all machines          (required: Ray asks for it)
#   RAY_TEMP_DIR      Ray's session, logs and spilled objects; a short path               (default: /var/lib/promptmill/ray)
#   NUM_CPUS, NUM_GPUS, OBJECT_STORE_BYTES                                                (default: what Ray finds)
#   PROMPTMILL_BIN    where promptmill is installed                                       (default: /opt/promptmill/bin)
#
# The head takes no work but the driver's. The ports are fixed, so that a firewall can name them; see README.md.
set -euo pipefail

role=${1:-}
head=${RAY_HEAD:?RAY_HEAD: the address of the head machine}
bin=${PROMPTMILL_BIN:-/opt/promptmill/bin}
token=${RAY_AUTH_TOKEN_PATH:?RAY_AUTH_TOKEN_PATH: the file with the token of the cluster; make one with ray get-auth-token --generate}

if [[ ! -s $token ]]; then
    echo "ray-node.sh: the token file '$token' is empty or not there; copy the one of the head" >&2
    exit 2
fi
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0

common=(
    --block
    --temp-dir="${RAY_TEMP_DIR:-/var/lib/promptmill/ray}"
    --node-manager-port="${NODE_MANAGER_PORT:-6800}"
    --object-manager-port="${OBJECT_MANAGER_PORT:-6801}"
    --runtime-env-agent-port="${RUNTIME_ENV_AGENT_PORT:-6802}"
    --dashboard-agent-grpc-port="${DASHBOARD_AGENT_PORT:-6803}"
    --dashboard-agent-listen-port="${DASHBOARD_AGENT_LISTEN_PORT:-52365}"
    --metrics-export-port="${METRICS_PORT:-8080}"
    --min-worker-port=10002
    --max-worker-port=10999
)
if [[ -n ${OBJECT_STORE_BYTES:-} ]]; then
    common+=(--object-store-memory="$OBJECT_STORE_BYTES")
fi

case $role in
    head)
        # The dashboard and its job API listen on loopback: submit here, or through `ssh -L 8265:127.0.0.1:8265`.
        exec "$bin/ray" start --head --node-ip-address="${NODE_ADDRESS:-$head}" --port=6379 --num-cpus=0 --num-gpus=0 \
            --dashboard-host=127.0.0.1 --dashboard-port=8265 "${common[@]}"
        ;;
    worker)
        if [[ -n ${NUM_CPUS:-} ]]; then
            common+=(--num-cpus="$NUM_CPUS")
        fi
        if [[ -n ${NUM_GPUS:-} ]]; then
            common+=(--num-gpus="$NUM_GPUS")
        fi
        if [[ -n ${NODE_ADDRESS:-} ]]; then
            common+=(--node-ip-address="$NODE_ADDRESS")
        fi
        exec "$bin/ray" start --address="$head:6379" "${common[@]}"
        ;;
    *)
        echo "ray-node.sh: '$role' is neither head nor worker" >&2
        exit 2
        ;;
esac
