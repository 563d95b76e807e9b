#!/usr/bin/env bash
# Run every test in every environment that is set up, then say in a table how each one ended.
#
# The device's tests run on the other Pythons first; everything runs on the host's last. An
# interpreter that was not found is named, never passed over in silence.
#   SYSTEM=0       leave the tests out that need a real broker
#   PYTEST_ARGS    handed to every pytest
set -uo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PATH:/usr/sbin:/sbin" ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
report=() failed=0

suite() {
    local name=$1 folder=$2 begin=$SECONDS code=0 output
    shift 2
    if [[ ! -f $folder/.stamp ]]; then
        report+=("$name: NOT RUN, no such interpreter was found")
        return
    fi
    echo "== tests: $name"
    output=$(mktemp)
    # shellcheck disable=SC2086  # PYTEST_ARGS is a list of words
    "$folder/bin/python" -m pytest -q ${PYTEST_ARGS:-} "$@" 2>&1 | tee "$output" || code=1
    [[ $code -eq 0 ]] || failed=1
    report+=("$name: $(tail -n 1 "$output" | tr -d '=' | xargs) ($((SECONDS - begin)) s)")
    rm -f "$output"
}

device=()
for folder in tests/unit tests/contract tests/hostile tests/scenario; do
    [[ -d $folder ]] && device+=("$folder")
done
selection=()
[[ ${SYSTEM:-1} == 0 ]] && selection=(-m "not system")

suite "device on Python 3.10" .venv-py310 "${device[@]}"
suite "device on Python 3.13" .venv-py313 "${device[@]}"
[[ -d tests/contract ]] && suite "device with tflite-runtime" .venv-tflite tests/contract
suite "everything on the host's Python" .venv ${selection[@]+"${selection[@]}"} tests

echo "== summary"
printf '   %s\n' "${report[@]}"
if [[ $failed -ne 0 ]]; then
    echo "   FAILED"
fi
exit "$failed"
