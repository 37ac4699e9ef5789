#!/usr/bin/env bash
# Makes target/venv with the packages of .ci/python-requirements.txt and prints the path of its python.
# Nothing is done where it stands already with the same requirements. Where it cannot be made (no python3, no PyPI) it
# says so on stderr, prints nothing and ends with 0: tests then skip and say it too.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
requirements=$root/.ci/python-requirements.txt
target=${CARGO_TARGET_DIR:-$root/target}
venv=$target/venv
stamp=$venv/requirements.sha256
failed=$target/venv.failed # why it did not work just now: the next test need not wait for it again
want=$(sha256sum <"$requirements")

ready() { [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; }
skip() {
    echo "prepare.sh: $1; tests that need Python are skipped" >&2
    exit 0
}
give_up() {
    echo "$1" >"$failed"
    skip "$1"
}

if ! ready; then
    command -v python3 >/dev/null || skip "python3 is not installed"
    mkdir -p "$target"
    # Two tests may come here at once: the second waits, and finds it done.
    exec 9>"$target/venv.lock"
    flock 9
    if ! ready; then
        [ -n "$(find "$failed" -newer "$requirements" -mmin -10 2>/dev/null)" ] && skip "$(cat "$failed")"
        rm -rf "$venv" "$failed"
        log=$target/venv.log
        python3 -m venv "$venv" >"$log" 2>&1 || give_up "python3 -m venv failed (see $log)"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
            --only-binary :all: -r "$requirements" >>"$log" 2>&1 || give_up "pip cannot install .ci/python-requirements.txt (see $log)"
        echo "$want" >"$stamp"
    fi
fi
echo "$venv/bin/python"
