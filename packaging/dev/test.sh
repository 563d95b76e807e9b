#!/usr/bin/env bash
# Run every test in every environment that is set up, then say in a table how each one ended.
#
# The device's suites on the other Pythons run side by side, since they mostly wait; then everything
# runs on the host's Python, alone, so that its clocks are its own. An interpreter that was not
# found is named, never passed over in silence.
#   SYSTEM=0       leave the tests out that need a real broker
#   PYTEST_ARGS    handed to every pytest
set -uo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PATH:/usr/sbin:/sbin" ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
suites=()

# suite NAME FOLDER PYTEST-ARGUMENTS...: its output and its end go to files under $logs.
suite() {
    local folder=$2 log=$logs/$1 begin=$SECONDS
    suites+=("$1")
    shift 2
    if [[ ! -f $folder/.stamp ]]; then
        echo "NOT RUN, no such interpreter was found" >"$log.end"
        return
    fi
    # shellcheck disable=SC2086  # PYTEST_ARGS is a list of words
    "$folder/bin/python" -m pytest -q -p no:cacheprovider ${PYTEST_ARGS:-} "$@" 2>&1 | tee "$log"
    local code=${PIPESTATUS[0]}
    # A selection of yours (-k …) may leave a suite without a test; without one that is a failure.
    [[ $code == 5 && -n ${PYTEST_ARGS:-} ]] && code=0
    echo "$code" >"$log.code"
    echo "$(grep -v '^ *$' "$log" | tail -n 1 | tr -d '=') ($((SECONDS - begin)) s)" >"$log.end"
}

device=()
for folder in tests/unit tests/contract tests/hostile tests/scenario; do
    [[ -d $folder ]] && device+=("$folder")
done
selection=()
[[ ${SYSTEM:-1} == 0 ]] && selection=(-m "not system")

echo "== tests: the device's, on other Pythons"
beside=()
suite "device on Python 3.10" .venv-py310 "${device[@]}" >/dev/null &
beside+=("device on Python 3.10")
suite "device on Python 3.13" .venv-py313 "${device[@]}" >/dev/null &
beside+=("device on Python 3.13")
wait
suites+=("${beside[@]}")
for name in "${suites[@]}"; do
    echo "-- $name"
    if [[ -f $logs/$name ]]; then cat "$logs/$name"; fi
done

echo "== tests: contracts on tflite-runtime"
suite "device with tflite-runtime" .venv-tflite tests/contract

echo "== tests: everything, on the host's Python"
suite "everything on the host's Python" .venv ${selection[@]+"${selection[@]}"} tests

echo "== summary"
failed=0
for name in "${suites[@]}"; do
    printf '   %s: %s\n' "$name" "$(<"$logs/$name.end")"
    if [[ -f $logs/$name.code && $(<"$logs/$name.code") != 0 ]]; then failed=1; fi
done
if [[ $failed -ne 0 ]]; then
    echo "   FAILED"
fi
exit "$failed"
