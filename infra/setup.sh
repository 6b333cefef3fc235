#!/usr/bin/env bash
# Sets up .venv from requirements.lock on a machine with Python 3.11 or 3.12. Run by `make setup`;
# does nothing when the environment is already what the lock says.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }
apt_install() { # packages...: quietly, or one line saying what to install
  if is_root && command -v apt-get >/dev/null; then
    say "installing system packages: $*"
    log=$(mktemp)
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } >"$log" 2>&1 ||
      die "apt-get could not install $* (see $log)"
  else
    die "system packages are missing; run: sudo apt-get install $*"
  fi
}

stamp=.venv/.spa3r-setup
want=$(cat requirements.lock pyproject.toml infra/setup.sh | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
  exit 0
fi

python=""
for candidate in python3.11 python3.12 python3; do
  if command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || die "Python 3.11 or 3.12 is needed and was not found on PATH"

if [ ! -x .venv/bin/python ]; then
  say "creating .venv with $($python --version)"
  if ! "$python" -m venv .venv 2>/dev/null; then # Debian ships venv apart from Python
    rm -rf .venv
    apt_install "$(basename "$(readlink -f "$(command -v "$python")")")-venv"
    "$python" -m venv .venv
  fi
fi
pip=(.venv/bin/python -m pip --disable-pip-version-check -q)

if [ "$(uname -s)" = Linux ]; then # Open3D's shared libraries
  missing=()
  for pair in libusb-1.0.so.0:libusb-1.0-0 libGL.so.1:libgl1 libgomp.so.1:libgomp1 libX11.so.6:libx11-6; do
    .venv/bin/python -c "import ctypes; ctypes.CDLL('${pair%%:*}')" 2>/dev/null || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
fi

torch=$(grep -E '^torch==' requirements.lock)
if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
  cpu_index=https://download.pytorch.org/whl/cpu
  if [ "$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null; then
    say "installing $torch"
    "${pip[@]}" install "$torch"
  elif "${pip[@]}" install --dry-run --no-deps --report - "$torch" 2>/dev/null | grep -q "${torch##*==}+cpu"; then
    say "installing $torch (CPU build, from this machine's package folder)"
    "${pip[@]}" install "$torch"
  elif .venv/bin/python -c "import urllib.request as u; u.urlopen('$cpu_index/torch/', timeout=10)" 2>/dev/null; then
    say "installing $torch (CPU build, about 200 MB)"
    "${pip[@]}" install "$torch" --index-url "$cpu_index"
  else
    say "installing $torch from PyPI: its CUDA packages make this a download of several GB"
    "${pip[@]}" install "$torch"
  fi
fi

say "installing the packages of requirements.lock (about 700 MB, some minutes)"
"${pip[@]}" install --no-deps -r requirements.lock
"${pip[@]}" install --no-deps --no-build-isolation -e .
.venv/bin/python -c 'import open3d' >/dev/null 2>&1 ||
  die "Open3D does not import: .venv/bin/python -c 'import open3d' says why"
printf '%s' "$want" >"$stamp"
say "done"
