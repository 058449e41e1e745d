# shellcheck shell=bash
# Sourced by the scripts that deal with a running cluster, after lib.sh: where a
# cluster's state is, which slot of addresses it has, which processes are its own.
#
# State of cluster NAME, all under $CACHE/run/NAME:
#   slot      its number N, 1 to 250: 10.250.N.0/24 node, 10.251.N.0/24 pods,
#             10.252.N.0/24 services; netns and cgroup cartulary-N, veth cartN;
#             the control-plane flavour has ports 20000+16N and up on 127.0.0.1
#   flavour   full or control-plane
#   bin       link to the binaries it was started with
#   boot      the boot it belongs to: after a reboot nothing of it runs
#   *.pid     "PID STARTTIME" of each process outside the node's own PID namespace
#   ready     exists when `up` has finished
#   kubeconfig, pki/, log/, and the node's disks

NODE=node-1
RUN=$CACHE/run

# use_cluster NAME: sets the variables of that name, and of its slot if it has one.
use_cluster() {
  NAME=$1
  [[ $NAME =~ ^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
    die "'$NAME' is no name for a cluster: small letters, digits and dashes, at most 40"
  STATE=$RUN/$NAME PKI=$RUN/$NAME/pki LOGS=$RUN/$NAME/log
  SLOT=$(cat "$STATE/slot" 2>/dev/null || true)
  BIN=$(readlink "$STATE/bin" || true)
  FLAVOUR=$(cat "$STATE/flavour" 2>/dev/null || true)
  NETNS=cartulary-$SLOT VETH=cart$SLOT
  POD_CIDR=10.251.$SLOT.0/24 SVC_CIDR=10.252.$SLOT.0/24 SVC_API=10.252.$SLOT.1
  if [ "$FLAVOUR" = control-plane ]; then
    HOST_IP=127.0.0.1 NODE_IP=127.0.0.1 PORT=$((20000 + 16 * ${SLOT:-0}))
  else
    HOST_IP=10.250.$SLOT.1 NODE_IP=10.250.$SLOT.2 PORT=6443
  fi
}

# given: true when the person named a cluster of theirs, to be used and not touched.
given() { [ -n "${CLUSTER_KUBECONFIG:-}" ]; }

kubeconfig() { if given; then echo "$CLUSTER_KUBECONFIG"; else echo "$STATE/kubeconfig"; fi; }

# running: the cluster was brought up in this boot and still runs.
running() {
  [ -e "$STATE/ready" ] && this_boot || return 1
  local file
  for file in "$STATE"/*.pid; do pid_of "$file" >/dev/null || return 1; done
}

need_running() { running || die "no cluster '$NAME' is running; start it with tests/cluster/up $NAME"; }

this_boot() { [ "$(cat "$STATE/boot" 2>/dev/null)" = "$(cat /proc/sys/kernel/random/boot_id)" ]; }

# remember_pid PID FILE: with its start time, since numbers are used again.
remember_pid() { echo "$1 $(start_time "$1")" >"$2"; }

# pid_of FILE: prints the process id if that very process still runs.
pid_of() {
  local pid started
  this_boot && read -r pid started <"$1" 2>/dev/null && [ "$(start_time "$pid")" = "$started" ] && echo "$pid"
}

# start_time PID: in clock ticks since the boot; nothing for one that is gone or a zombie.
start_time() {
  local stat
  read -r stat <"/proc/$1/stat" || return 0
  stat=${stat##*) }                   # the name before may hold spaces
  # shellcheck disable=SC2086
  set -- $stat
  [ "$1" = Z ] || echo "${20}"
} 2>/dev/null
