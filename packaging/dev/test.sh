#!/usr/bin/env bash
# Run every test in every environment that is set up, then say in a table how each one ended.
#
# Two things are done at a time: in front the converter's tests and the device's on the host's Python;
# behind them the device's on the other Pythons, the packages' and the demo. Whole systems come last,
# alone, so that their clocks are their own.
# A device's Python that was not found is named, never passed over in silence; a suite that leaves no
# exit code has failed. On the host nothing may be skipped but what is named in tests/conftest.py.
#   SYSTEM=0       leave the tests out that need a real broker
#   PYTEST_ARGS    handed to every pytest
set -uo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PATH:/usr/sbin:/sbin" ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

device=(tests/unit tests/contract tests/hostile tests/scenario)
demo=tests/system/test_demo.py
selection=()
[[ ${SYSTEM:-1} == 0 ]] && selection=(-m "not system")

# suite NAME FOLDER PYTEST-ARGUMENTS...: its output, exit code and last line go to files in $logs.
suite() {
    local folder=$2 log=$logs/$1 begin=$SECONDS
    shift 2
    if [[ ! -f $folder/.stamp ]]; then
        echo "NOT RUN, no such interpreter was found" | tee "$log" >"$log.end"
        echo 0 >"$log.code"
        return
    fi
    # shellcheck disable=SC2086  # PYTEST_ARGS is a list of words
    "$folder/bin/python" -m pytest -q -p no:cacheprovider --durations=12 --durations-min=5 \
        ${PYTEST_ARGS:-} "$@" 2>&1 | tee "$log"
    local code=${PIPESTATUS[0]}
    # A selection of yours (-k …) may leave a suite without a test; without one that is a failure.
    [[ $code == 5 && -n ${PYTEST_ARGS:-} ]] && code=0
    echo "$(grep -v '^ *$' "$log" | tail -n 1 | tr -d '=') ($((SECONDS - begin)) s)" >"$log.end"
    echo "$code" >"$log.code"
}

host() { EDGE_ALL_HERE=1 suite "$1" .venv ${selection[@]+"${selection[@]}"} "${@:2}"; }

behind=("device on Python 3.10" "device on Python 3.13" "device with tflite-runtime"
    "packages and the demo")
front=("the converter's" "device on the host's Python")
last="whole systems"

echo "== tests: ${front[*]}; behind them: ${behind[*]}"
{
    suite "${behind[0]}" .venv-py310 "${device[@]}"
    suite "${behind[1]}" .venv-py313 "${device[@]}"
    suite "${behind[2]}" .venv-tflite tests/contract
    host "${behind[3]}" tests/packaging "$demo"
} >/dev/null &

# What machines start from is made meanwhile; its own tests make it where it is not there.
if [[ ${SYSTEM:-1} != 0 ]]; then
    nice -n 5 .venv/bin/python -m tests.machine.prepare deb12 >"$logs/prepare" 2>&1 &
fi

echo "-- ${front[0]}"
host "${front[0]}" tests/converters
echo "-- ${front[1]}"
host "${front[1]}" "${device[@]}"
wait
[[ -f $logs/prepare ]] && cat "$logs/prepare"
for name in "${behind[@]}"; do
    echo "-- $name"
    cat "$logs/$name"
done

suites=("${behind[@]}" "${front[@]}")
if [[ ${SYSTEM:-1} != 0 ]]; then
    echo "-- $last"
    host "$last" tests/system --ignore "$demo"
    suites+=("$last")
fi

echo "== summary"
failed=0
for name in "${suites[@]}"; do
    printf '   %s: %s\n' "$name" "$(cat "$logs/$name.end" 2>/dev/null || echo "ended early")"
    [[ $(cat "$logs/$name.code" 2>/dev/null) == 0 ]] || failed=1
done
if [[ $failed -ne 0 ]]; then
    echo "   FAILED"
fi
exit "$failed"
