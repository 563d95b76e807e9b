#!/usr/bin/env bash
# Set up one virtual environment with this checkout in it, or do nothing where it is up to date.
#
#   make-venv.sh FOLDER PYTHON EXTRAS CONSTRAINTS [FIRST...]
#
# FIRST are requirements installed one by one before the rest (torch). A stamp inside FOLDER holds
# a hash of all that the environment depends on. pip's own talk goes to FOLDER/setup.log; one line
# per step is shown. PIP_ARGS is handed to every pip, for an index of your own. Never prompts.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=$1 python=$2 extras=$3 constraints=$4
shift 4

stamp=$folder/.stamp
# The tables of tools in pyproject.toml (ruff, mypy…) change often and install nothing.
wanted=$({
    sed '/^\[tool\.ruff/,$d' pyproject.toml
    cat "$constraints" "$0"
    echo "$python $extras $* ${PIP_ARGS:-}"
} | sha256sum | cut -d' ' -f1)

if [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && "$folder/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

log=$folder/setup.log
steps=$(($# + 2)) step=0

# On a terminal the current line of pip is shown in place; elsewhere only the step.
progress() {
    tee -a "$log" | if [[ -t 1 ]]; then
        awk -v width="$(($(tput cols 2>/dev/null || echo 80) - 6))" '
            /^ *(Collecting|Downloading|Building|Installing|Preparing)/ {
                printf "\r\033[K      %s", substr($0, 1, width); fflush() }
            END { printf "\r\033[K" }'
    else
        cat >/dev/null
    fi
}

run() {
    local title=$1 begin=$SECONDS
    shift
    step=$((step + 1))
    echo "   $step/$steps $title"
    if ! "$@" 2>&1 | progress; then
        echo "   failed; the end of $log:" >&2
        tail -n 15 "$log" >&2
        exit 1
    fi
    echo "       done in $((SECONDS - begin)) s"
}

pip_install() {
    # shellcheck disable=SC2086  # PIP_ARGS is a list of words
    "$folder/bin/python" -m pip install --no-input --disable-pip-version-check \
        --progress-bar off --constraint "$constraints" ${PIP_ARGS:-} "$@"
}

echo "== $folder: $("$python" --version), $python"
rm -f "$stamp"
mkdir -p "$folder"
: >"$log"
base=$("$folder/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null || true)
if [[ -n $base && $(realpath "$base") == $(realpath "$python") ]]; then
    run "the environment is there" true
else
    find "$folder" -mindepth 1 -maxdepth 1 ! -name setup.log -exec rm -rf {} +
    run "a new environment" "$python" -m venv "$folder"
fi
for requirement in "$@"; do
    run "$requirement (first, alone)" pip_install "$requirement"
done
run "edge-runtime[$extras]" pip_install --editable ".[$extras]"
echo "$wanted" >"$stamp"
