#!/usr/bin/env bash
# Run every test in every environment that is set up, then say in a table how each one ended.
#
# The device's suites on the other Pythons run behind the converter's, since they mostly wait; then
# everything else runs on the host's Python, alone, so that its clocks are its own.
# A device's Python that was not found is named, never passed over in silence; a suite that leaves no
# exit code has failed. On the host nothing may be skipped but what is named in tests/conftest.py.
#   SYSTEM=0       leave the tests out that need a real broker
#   PYTEST_ARGS    handed to every pytest
set -uo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PATH:/usr/sbin:/sbin" ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# suite NAME FOLDER PYTEST-ARGUMENTS...: its output, exit code and last line go to files in $logs.
suite() {
    local folder=$2 log=$logs/$1 begin=$SECONDS
    shift 2
    # shellcheck disable=SC2086  # PYTEST_ARGS is a list of words
    "$folder/bin/python" -m pytest -q -p no:cacheprovider ${PYTEST_ARGS:-} "$@" 2>&1 | tee "$log"
    local code=${PIPESTATUS[0]}
    # A selection of yours (-k …) may leave a suite without a test; without one that is a failure.
    [[ $code == 5 && -n ${PYTEST_ARGS:-} ]] && code=0
    echo "$(grep -v '^ *$' "$log" | tail -n 1 | tr -d '=') ($((SECONDS - begin)) s)" >"$log.end"
    echo "$code" >"$log.code"
}

# Whether a device's environment is there; it is not where its Python was not found.
found() { [[ -f $1/.stamp ]]; }

device=(tests/unit tests/contract tests/hostile tests/scenario)
selection=()
[[ ${SYSTEM:-1} == 0 ]] && selection=(-m "not system")
suites=() missing=()

# What machines start from is made meanwhile; its own tests make it where it is not there.
if [[ ${SYSTEM:-1} != 0 ]]; then
    nice -n 5 .venv/bin/python -m tests.machine.prepare deb12 >"$logs/prepare" 2>&1 &
fi

echo "== tests: the device's, on other Pythons; the converter's"
for version in 3.10 3.13; do
    name="device on Python $version" folder=.venv-py${version/./}
    if found "$folder"; then
        suites+=("$name")
        suite "$name" "$folder" "${device[@]}" >/dev/null &
    else
        missing+=("$name")
    fi
done
converters="the converter's on the host's Python"
echo "-- $converters"
EDGE_ALL_HERE=1 suite "$converters" .venv tests/converters
wait
[[ -f $logs/prepare ]] && cat "$logs/prepare"
for name in ${suites[@]+"${suites[@]}"}; do
    echo "-- $name"
    cat "$logs/$name"
done
suites+=("$converters")

echo "== tests: contracts on tflite-runtime"
name="device with tflite-runtime"
if found .venv-tflite; then
    suites+=("$name")
    suite "$name" .venv-tflite tests/contract
else
    missing+=("$name")
fi

echo "== tests: everything else, on the host's Python"
name="everything else on the host's Python"
suites+=("$name")
EDGE_ALL_HERE=1 suite "$name" .venv ${selection[@]+"${selection[@]}"} tests --ignore tests/converters

echo "== summary"
failed=0
for name in "${suites[@]}"; do
    printf '   %s: %s\n' "$name" "$(cat "$logs/$name.end" 2>/dev/null || echo "ended early")"
    [[ $(cat "$logs/$name.code" 2>/dev/null) == 0 ]] || failed=1
done
for name in ${missing[@]+"${missing[@]}"}; do
    printf '   %s: NOT RUN, no such interpreter was found\n' "$name"
done
if [[ $failed -ne 0 ]]; then
    echo "   FAILED"
fi
exit "$failed"
