# Sourced by the other scripts: makes .venv with the pinned packages, once.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
if ! .venv/bin/python -c 'import sys' 2>/dev/null; then
    echo "Making the environment in .venv ..."
    "$python" -m venv .venv
fi
# installed again only when what is to be installed has changed
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
    echo "Installing (a few minutes, about 6 GB) ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
    echo "$wanted" >.venv/installed
fi
export PATH="$PWD/.venv/bin:$PATH"
