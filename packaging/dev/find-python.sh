#!/usr/bin/env bash
# Print the path of an interpreter that really runs and can make a virtual environment.
#
#   find-python.sh VERSION...      the first of these that is found, e.g. 3.11 3.12
#
# A `python3.10` on PATH may be a version manager's shim that only prints an error, and a
# distribution's python may lack venv: so each candidate is tried, not believed. Exit 1: none.
set -euo pipefail

runs() {
    "$1" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != ($2, $3))" \
        >/dev/null 2>&1
}

for version in "$@"; do
    mapfile -t on_path < <(type -aP "python$version" python3 | awk '!seen[$0]++')
    for candidate in "${on_path[@]}" "$HOME/.pyenv/versions/$version."*/bin/python; do
        if [[ -x $candidate ]] && runs "$candidate" "${version%.*}" "${version#*.}"; then
            # The interpreter behind a shim or an active environment, which may go away.
            "$candidate" -c 'import sys; print(sys._base_executable)'
            exit 0
        fi
    done
done
exit 1
