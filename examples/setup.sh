#!/bin/sh
# Installs what tests and examples need, and only what is missing: Deno 2.9 or later, and on machines without
# a WebGPU adapter (Debian, Ubuntu) Mesa's software Vulkan driver. Usage: sh examples/setup.sh
set -u
here=$(dirname "$0")

has() { command -v "$1" >/dev/null 2>&1; }
say() { printf '%s\n' "$*"; }
fail() {
  say "$*" >&2
  exit 1
}

# Runs a command as root, if there is a way to.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; elif has sudo; then sudo "$@"; else return 1; fi
}

deno_version() { deno --version 2>/dev/null | sed -n 's/^deno \([0-9][0-9.]*\).*/\1/p'; }

deno_is_recent() {
  version=$(deno_version)
  [ -n "$version" ] || return 1
  major=${version%%.*}
  minor=${version#*.}
  minor=${minor%%.*}
  [ "$major" -gt 2 ] || { [ "$major" -eq 2 ] && [ "$minor" -ge 9 ]; }
}

# The folder of global npm packages may have to be created first.
is_writable() {
  dir=$1
  while [ ! -e "$dir" ]; do dir=$(dirname "$dir"); done
  [ -w "$dir" ]
}

# Leaves the folder of the new binary in $bin.
install_deno() {
  if has npm; then
    prefix=$(npm prefix -g)
    if is_writable "$prefix/lib/node_modules/deno" && is_writable "$prefix/bin/deno"; then
      say "Installing Deno with npm in $prefix"
      npm install --global --no-fund --no-audit --loglevel=error 'deno@^2.9.0' || return 1
    else
      prefix=$HOME/.local
      say "Installing Deno with npm in $prefix, as the global folder of npm is not writable"
      npm install --global --no-fund --no-audit --loglevel=error --prefix "$prefix" 'deno@^2.9.0' || return 1
    fi
    bin=$prefix/bin
  elif has curl; then
    say "Installing Deno with its official installer in ${DENO_INSTALL:-$HOME/.deno}"
    curl -fsSL https://deno.land/install.sh | sh || return 1
    bin=${DENO_INSTALL:-$HOME/.deno}/bin
  else
    return 1
  fi
}

# Asks as all programs do. Leaves what was said in $complaint.
has_adapter() {
  complaint=$(deno run --quiet --no-lock --allow-env=DENO_WEBGPU_BACKEND "$here/../cli/process/check_adapter.ts" 2>&1)
}

caller_path=$PATH
installed_in=
if ! deno_is_recent; then
  found=$(deno_version)
  bin=
  install_deno || fail "Cannot install Deno as npm or curl must work: install Deno 2.9 or later yourself" \
    "(found: ${found:-none})"
  PATH=$bin:$PATH
  hash -r
  deno_is_recent || fail "Cannot go on as deno must be 2.9 or later: $bin/deno is $(deno_version)"
  installed_in=$bin
fi

if ! has_adapter; then
  if has apt-get; then
    say "Installing a software Vulkan driver with apt-get: mesa-vulkan-drivers libvulkan1"
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get update -qq
    as_root apt-get install -y -qq --no-install-recommends mesa-vulkan-drivers libvulkan1 >/dev/null ||
      say "Cannot install them as apt-get, as root or with sudo, must succeed" >&2
  fi
  has_adapter || fail "$complaint
Run this again when a driver is there"
fi

# The caller's PATH is not ours to change, and without the right one its next command would not find this Deno.
if [ -n "$installed_in" ] && ! (PATH=$caller_path && hash -r && deno_is_recent); then
  fail "Deno is installed. Put it first on your PATH: export PATH=\"$installed_in:\$PATH\""
fi
say "Ready: Deno $(deno_version), WebGPU adapter found"
