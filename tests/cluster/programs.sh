# shellcheck shell=bash
# Sourced by the scripts that make images of programs: no distribution underneath,
# only the programs, the shared libraries they name, the certificate authorities
# and a user that is not root.

# lay_programs ROOT BIN_DIR PROGRAM...: makes ROOT the root file system of an image.
lay_programs() {
  local root=$1 bin=$2 program
  shift 2
  for program; do
    [ -x "$bin/$program" ] || die "$bin/$program is not there: build the programs first"
  done
  mkdir -p "$root"/{etc/ssl/certs,usr/{bin,lib,lib64},tmp,home/cartulary}
  chmod 755 "$root"
  chmod 1777 "$root/tmp"
  ln -s usr/bin usr/lib usr/lib64 "$root"

  # Debug tables are nine tenths of a development build, and nobody reads them in there.
  for program; do
    strip --strip-debug -o "$root/usr/bin/$program" "$bin/$program" &
  done
  for program; do ldd "$bin/$program" || true; done |
    { grep -oE '/[^ ]+' || true; } | sort -u | while read -r library; do
      mkdir -p "$root$(dirname "$library")"
      cp -L "$library" "$root$library"
    done
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
  printf '%s\n' root:x:0:0::/root:/nonexistent cartulary:x:65532:65532::/home/cartulary:/nonexistent >"$root/etc/passwd"
  printf '%s\n' root:x:0: cartulary:x:65532: >"$root/etc/group"
  wait
  for program; do [ -s "$root/usr/bin/$program" ] || die "could not strip $program"; done
}

# write_image ROOT REFERENCE: the image of that root, as a docker-archive on stdout.
write_image() {
  local root=$1 reference=$2
  chmod -R go=u-w "$root/usr"
  tar --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 -C "$root" -cf "$root.tar" .
  "$HERE/mkimage" "$root.tar" -- "$reference" \
    '{"User": "65532:65532", "Env": ["PATH=/usr/bin"], "WorkingDir": "/home/cartulary"}'
}
