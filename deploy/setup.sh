#!/bin/sh
# Makes .venv from requirements.lock (exact versions, hashes). Outside the folder, only caches of pip and uv.
# PYTHON names the interpreter to use; by default the first of python3.12, python3.11, python3 that fits.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/.ready
wanted=$(cat requirements.lock pyproject.toml deploy/uv.lock | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
python=""
for candidate in ${PYTHON:-} python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 && fits "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "setup: expected Python 3.11 or 3.12 (bytewax has wheels for no later one), found none; set PYTHON=..." >&2
    exit 2
fi
if [ -d .venv ] && ! fits .venv/bin/python; then rm -rf .venv; fi
if [ ! -x .venv/bin/pip ]; then
    rm -rf .venv
    "$python" -m venv .venv || { echo "setup: $python cannot make an environment; is its venv module installed?" >&2; exit 2; }
fi
if [ ! -x .venv/bin/uv ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r deploy/uv.lock
fi
.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
# Kernels are compiled once, here, rather than by the first run, or by several at once.
.venv/bin/python -c "import operators.model_terms, operators.window_kernel"
echo "$wanted" > "$stamp"
