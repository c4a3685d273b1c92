# shellcheck shell=bash
# What tools/quickstart and tools/test share: the checkout, the toolchains, the program, the bundle.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

say() { printf '\n== %s\n' "$*" >&2; }

die() {
	printf 'error: %s\n' "$1" >&2
	shift
	local line
	for line in "$@"; do printf '  hint: %s\n' "$line" >&2; done
	exit 3
}

# section start|end NAME: in GitLab's log, what is between them can be folded.
section() {
	[[ ${GITLAB_CI:-} != true ]] || printf '\e[0Ksection_%s:%s:%s\r\e[0K' "$1" "$(date +%s)" "${2//[^a-zA-Z0-9]/_}" >&2
}

# timed NAME COMMAND...: runs a command and says how long it took.
timed() {
	local name=$1 begin=$SECONDS code=0
	shift
	section start "$name"
	say "$name"
	"$@" || code=$?
	section end "$name"
	if ((code)); then
		printf '   %s FAILED after %ss\n' "$name" $((SECONDS - begin)) >&2
		return $code
	fi
	printf '   %s: %ss\n' "$name" $((SECONDS - begin)) >&2
}

# debian_package PROGRAM PACKAGE: installs a Debian package when the program is missing and that is possible.
debian_package() {
	command -v "$1" >/dev/null && return
	if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
		say "installing $2"
		apt-get install -y --no-install-recommends "$2" >/dev/null 2>&1 ||
			{ apt-get update >/dev/null && apt-get install -y --no-install-recommends "$2" >/dev/null; } ||
			die "$1 is missing and could not be installed" "sudo apt-get install $2"
	else
		die "$1 is missing" "sudo apt-get install $2"
	fi
}

toolchains() {
	debian_package git git
	debian_package cc build-essential
	command -v cargo >/dev/null || die "cargo is missing; the version that is needed stands in rust-toolchain.toml" \
		"curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
	if command -v rustup >/dev/null && ! (cd "$ROOT" && cargo --version >/dev/null 2>&1); then
		say "installing the Rust toolchain of rust-toolchain.toml"
		(cd "$ROOT" && rustup toolchain install >/dev/null)
	fi
	command -v go >/dev/null || die "go is missing; tools/parts/go.mod says which version is needed" \
		"download it from https://go.dev/dl and put its bin folder on PATH"
}

# program PROFILE: builds cluster-init and sets PROGRAM.
program() {
	local profile=$1 folder=$1
	[[ $profile == dev ]] && folder=debug
	cargo build --locked --quiet --manifest-path "$ROOT/Cargo.toml" --profile "$profile" --bin cluster-init
	PROGRAM=${CARGO_TARGET_DIR:-$ROOT/target}/$folder/cluster-init
}

bundle() { "$PROGRAM" bundle build; }
