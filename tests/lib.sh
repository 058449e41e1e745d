# shellcheck shell=bash
# Sourced by the scripts behind the Makefile, on top of cluster/lib.sh: the root
# of the work tree, what is built and how the time that passes is shown.
. "$(dirname "${BASH_SOURCE[0]}")/cluster/lib.sh"

ROOT=$(cd "$HERE/../.." && pwd)
export CARTULARY_CACHE=$CACHE
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
PROGRAMS=$CARGO_TARGET_DIR/debug
cd "$ROOT" || exit

# phase TEXT: a line that says what comes now and how long it has been.
phase() { say "[$(elapsed $SECONDS)] $*"; }

need() {
  local program
  for program; do
    command -v "$program" >/dev/null || die "$program is missing from the PATH: install it first"
  done
}

# Packages of Debian, installed when missing and we may; else the first missing one is named.
debian_packages() {
  local package missing=()
  for package; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  [ "$(id -u)" = 0 ] || { say "not installed, and only root can: ${missing[*]}"; return 1; }
  export DEBIAN_FRONTEND=noninteractive
  [ -n "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit)" ] || step "updating the list of packages" apt-get update
  step "installing ${missing[*]}" apt-get install -y --no-install-recommends "${missing[@]}"
}

# Builds what tests and demo run. One invocation for all, so that features agree and nothing is compiled twice.
build_programs() {
  need cargo
  step "compiling the programs" cargo build --locked --workspace --bins
}

# product_image FILE: the product's image as an archive; made again only when a program, plugin or licence changed.
product_image() {
  local file=$1 docs
  if [ -e "$file" ] && [ -z "$(find "$PROGRAMS"/cartulary{,-operator,-sidecar} plugins LICENSE NOTICE Cargo.lock tests/{third-party,cluster/{product-image,programs.sh}} -newer "$file" -print -quit)" ]; then
    return
  fi
  mkdir -p "$(dirname "$file")"
  docs=$(mktemp -d)
  cp LICENSE NOTICE "$docs"
  tests/third-party "$docs/THIRD-PARTY"
  tests/cluster/product-image "$PROGRAMS" plugins "$docs" >"$file.$$"
  rm -rf "$docs"
  mv "$file.$$" "$file"
}

# kit_image FILE: the same for the example compliance servers.
kit_image() {
  local file=$1
  if [ -e "$file" ] && [ -z "$(find "$PROGRAMS"/{ethical-wall,redactor,logger} tests/cluster/{kit-image,programs.sh} -newer "$file" -print -quit)" ]; then
    return
  fi
  mkdir -p "$(dirname "$file")"
  tests/cluster/kit-image "$PROGRAMS" >"$file.$$"
  mv "$file.$$" "$file"
}

# One folder for each work tree, so that two clones on one cache do not swap images.
IMAGE=$CACHE/image/$(echo "$ROOT" | sha256sum | cut -c1-12)/cartulary.tar
# shellcheck disable=SC2034  # used by those who source this
KIT_IMAGE=${IMAGE%/*}/kit.tar
