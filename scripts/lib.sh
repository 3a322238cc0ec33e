# Shared by the other scripts: where they run, how they speak, how Debian packages get in.
# shellcheck shell=bash
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() {
    printf '\n== %s\n' "$*" >&2
}

# Install Debian packages where that needs no password; otherwise fail and let the caller say what is missing.
install_packages() {
    local as_root=()
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    say "Installing Debian packages: $*"
    "${as_root[@]}" apt-get -qq -o Acquire::Retries=3 update </dev/null >/dev/null || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
        install --yes --no-install-recommends "$@" </dev/null >/dev/null
}
