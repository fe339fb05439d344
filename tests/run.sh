#!/bin/sh
# Formatting, clippy and all tests, the manual pages' among them. Installs nothing: what a test needs and does
# not find is skipped, in a line that says so, and counted at the end. With STREW_TEST_ALL set a skipped test is
# a failure.
set -eu

cargo=${CARGO:-cargo}
if [ -e /etc/strew/config ]; then
    echo "/etc/strew/config holds for every peer that is tested, too: move it away" >&2
    exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# check TOOL COMMAND...: a command of cargo that comes with a tool of its own.
check() {
    tool=$1
    shift
    if "$cargo" "$1" --version >/dev/null 2>&1; then
        "$cargo" "$@"
    else
        echo "skipped: $tool not found" | tee -a "$log"
    fi
}
check rustfmt fmt --check
check clippy clippy --quiet --all-targets -- -D warnings

# Skips are told by tests that pass, whose output is shown only when asked for.
status=0
{ "$cargo" test --no-fail-fast -- --show-output 2>&1 || echo "failed: cargo test"; } | tee -a "$log" |
    grep -E -e '^(test .* (FAILED|ignored)|test result|failed:|skipped:|error|thread .* panicked)' \
        -e '^(     Running|warning)' || true
if grep -q '^failed: cargo test' "$log"; then
    sed -n '/^failures:/,$p' "$log"
    status=1
fi

skipped=$(grep -c '^skipped: ' "$log" || true)
echo "$skipped skipped"
if [ -n "${STREW_TEST_ALL:-}" ] && [ "$skipped" -gt 0 ]; then
    echo "nothing may be skipped here"
    status=1
fi
exit $status
