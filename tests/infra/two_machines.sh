#!/usr/bin/env bash
# two_machines.sh PYTHON_BIN SCRATCH COMMAND...: Ray on two "machines" that infra/machines/ray-node.sh starts, and a
# firewall between them that lets through the ports of the NetworkPolicy `ray` (in $OPEN_PORTS) and nothing else.
#
# A machine here is a network namespace with an address of its own and a private Ray directory; what the other one may
# reach is what the packet filter says. Runs as root under `unshare --net --mount --pid --fork --mount-proc`, so that no
# process and no rule outlives it. COMMAND runs on the head once both are there, with RAY_ADDRESS set.
set -euo pipefail

bin=$1 scratch=$2
shift 2
here=$(cd "$(dirname "$0")/../.." && pwd)

mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs /dev/shm
unshare --net --mount sleep 900 &
worker=$!
on_worker() { nsenter --net="/proc/$worker/ns/net" --mount="/proc/$worker/ns/mnt" "$@"; }
sleep 0.5
ip link add head0 type veth peer name worker0 netns "$worker"
ip address add 10.99.0.1/24 dev head0
on_worker ip address add 10.99.0.2/24 dev worker0
for side in "" on_worker; do
    $side ip link set lo up
    $side nft -f - << RULES
table inet machine {
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        tcp dport { $OPEN_PORTS } accept
        counter
    }
}
RULES
done
ip link set head0 up
on_worker ip link set worker0 up
mkdir -p "$scratch/ray"
on_worker mount -t tmpfs -o size=1g tmpfs "$scratch/ray"
on_worker mount -t tmpfs -o size=1g tmpfs /dev/shm

(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$scratch/token")
export RAY_HEAD=10.99.0.1 RAY_AUTH_TOKEN_PATH=$scratch/token RAY_TEMP_DIR=$scratch/ray PROMPTMILL_BIN=$bin
export OBJECT_STORE_BYTES=100000000 PATH=$bin:$PATH
"$here/infra/machines/ray-node.sh" head > "$scratch/head.log" 2>&1 &
NODE_ADDRESS=10.99.0.2 NUM_CPUS=2 on_worker "$here/infra/machines/ray-node.sh" worker > "$scratch/worker.log" 2>&1 &

export RAY_AUTH_MODE=token RAY_ADDRESS=10.99.0.1:6379
for _ in $(seq 60); do
    if ray status 2> /dev/null | grep -q "/2.0 CPU"; then
        break
    fi
    sleep 2
done
ray status | grep -q "/2.0 CPU" || {
    tail -n 20 "$scratch"/*.log
    echo "the worker did not join"
    exit 1
}
echo "listening: $( (ss -Hlnt; on_worker ss -Hlnt) | awk '$4 !~ /^127\.|^\[::1\]/ {sub(/.*:/, "", $4); print $4}' | sort -nu | tr '\n' ' ')"
code=0
"$@" || code=$?
echo "status $code"
exit "$code"
