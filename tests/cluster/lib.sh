# shellcheck shell=bash
# Sourced by every script here: where things are, how a long step shows that it
# moves, and how work on the shared cache is locked. It changes nothing itself.
set -Eeuo pipefail
trap 'echo "${0##*/}: line $LINENO: failed: $BASH_COMMAND" >&2' ERR   # no silent exit

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${CARTULARY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cartulary}
TOOLS=$HERE/tools

say() { echo "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# A node has folders of its own there, in which it would not find the cache: better told now than after the long build.
case $CACHE/ in
  /tmp/* | /run/* | /var/run/* | /var/log/*)
    die "the cache cannot be in $CACHE, since nodes have a /tmp, /run and /var/log of their own: choose another CARTULARY_CACHE" ;;
esac

# elapsed SECONDS: as a person says it, 75 is 1m15s.
elapsed() { if (($1 < 60)); then echo "${1}s"; else printf '%dm%02ds\n' $(($1 / 60)) $(($1 % 60)); fi; }

# step TEXT COMMAND...: runs COMMAND with its output in a log, says when it
# begins and ends, and every ten seconds how long it has run and how far it is
# (the number of lines logged, "of TOTAL" when STEP_TOTAL says how many it will be).
step() {
  local text=$1 log begin=$SECONDS last=$SECONDS pid
  shift
  mkdir -p "$CACHE/log"
  log=$CACHE/log/${text//[^a-zA-Z0-9]/-}.log
  say "$text ..."
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - last >= 10)); then
      last=$SECONDS
      say "$text: $(elapsed $((SECONDS - begin))), $(wc -l <"$log")${STEP_TOTAL:+ of $STEP_TOTAL} ${STEP_UNIT:-lines of log}"
    fi
  done
  if wait "$pid"; then
    say "$text: done in $(elapsed $((SECONDS - begin)))"
  else
    tail -n 20 "$log" >&2
    die "$text failed; the whole output is in $log"
  fi
}

# locked NAME COMMAND...: one at a time on this cache; a second caller waits.
# What COMMAND leaves running must close $lock_fd, or it keeps the lock.
locked() {
  local lock=$CACHE/lock/$1 lock_fd
  shift
  mkdir -p "$CACHE/lock"
  exec {lock_fd}>"$lock"
  flock "$lock_fd"
  "$@"
  exec {lock_fd}>&-
}

# complete DIR: DIR exists only when whole, because it is renamed into place last.
complete() { [ -d "$1" ]; }

# Below: the folders of the cache. Each name is a hash of all that decides what
# is in it, and hashing takes no program that is slow to start.

bin_dir() {
  echo "$CACHE/cluster/bin-$({
    cat "$TOOLS/go.mod" "$TOOLS/go.sum" "$TOOLS"/*/*.go "$HERE/build-tools"
    go_version
  } | short_hash)"
}

# The unpacked Debian root of in-root and of the base images.
root_dir() { echo "$CACHE/debian-root-$(short_hash <"$HERE/build-root")"; }

# Prosody 0.12, to be laid over that root.
prosody12_dir() { echo "$CACHE/prosody12-$(short_hash <"$HERE/build-prosody12")"; }

# The base images as archives.
images_dir() { echo "$CACHE/cluster/images-$(cat "$HERE/build-root" "$HERE/build-images" "$HERE/mkimage" "$HERE"/images/* | short_hash)"; }

# store_dir BIN: containerd's folder with the base images unpacked by that containerd.
store_dir() { echo "$CACHE/cluster/store-$({ images_dir; echo "$1"; cat "$HERE/build-store"; } | short_hash)"; }

# clone_store FROM TO: by hard links, since unpacked files are never written in
# place; containerd's databases are, and become copies.
clone_store() {
  local db
  cp -al "$1" "$2"
  while read -r db; do cp --remove-destination "$1/$db" "$2/$db"; done < <(cd "$1" && find . -name '*.db')
}

short_hash() { sha256sum | cut -c1-16; }

# The version of Go; from its file, without starting it, where there is one.
go_version() {
  local go
  go=$(command -v go) || die "Go is not installed, or not on the PATH"
  head -n 1 "$(dirname "$(dirname "$(readlink -f "$go")")")/VERSION" 2>/dev/null || go env GOVERSION
}
