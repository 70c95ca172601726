# Makes .venv and installs the project into it, once for each state of setup.cfg and constraints.txt.
# Sourced from the repository's root by quickstart.sh and tests/run.sh: install [EXTRA]

install_project() {
    local wanted python=${PYTHON:-python3} target=".${1:+[$1]}"
    wanted=$(cat setup.cfg pyproject.toml constraints.txt launch/install.sh | cksum)" $target"
    if [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ] ||
        [ "$(cat .venv/installed 2>/dev/null)" = "${wanted% *} .[test]" ]; then
        return
    fi
    if ! "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: $python with venv, Python 3.11 or newer, is needed: install it, or name it with PYTHON=" >&2
        exit 2
    fi
    echo "installing into .venv (a few minutes the first time)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
        --constraint constraints.txt --editable "$target"
    echo "$wanted" > .venv/installed
}
