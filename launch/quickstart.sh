#!/usr/bin/env bash
# From pictures to new pictures: installs, packs, trains, samples. Run it again to go on where it ended.
#
#     bash launch/quickstart.sh                    draws its own dogs
#     bash launch/quickstart.sh FOLDER             takes your photographs
#     bash launch/quickstart.sh [FOLDER] [--out DIR] [--dogs N] [key=value …]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pictures="" out="" dogs=3000 overrides=()
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$(realpath -m "${2:?--out needs a folder}"); shift ;;
        --dogs) dogs=${2:?--dogs needs a number}; shift ;;
        -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        -*) echo "error: unknown option $1: see --help" >&2; exit 2 ;;
        [a-z]*.[a-z]*=*) overrides+=("$1") ;;
        *) pictures=$(realpath -m "$1") ;;
    esac
    shift
done
if [ -n "$pictures" ] && [ ! -d "$pictures" ]; then
    echo "error: $pictures is not a folder: give a folder of photographs, or nothing to draw dogs" >&2
    exit 2
fi
cd "$root"
. launch/install.sh
install_project
export PATH="$root/.venv/bin:$PATH"

name=drawn-dogs
[ -z "$pictures" ] || name=$(basename "$pictures")-$(printf %s "$pictures" | cksum | cut -d " " -f 1)
out=${out:-$root/quickstart/$name}
mkdir -p "$out"

if [ -z "$pictures" ]; then
    echo "1/4 drawing $dogs dogs"
    python -m shards.drawn_dogs "$out/pictures" --count "$dogs"
    pictures=$out/pictures
else
    echo "1/4 taking the pictures in $pictures"
fi
echo "2/4 packing them into shards"
python -m shards.pack "$pictures" "$out/shards" --size 96 --val 0.1
echo "3/4 training (stop it with Ctrl-C; the same command goes on from there)"
accelerate launch --quiet --config_file launch/single_gpu.yaml -m dvae.train configs/quickstart.toml \
    data.train="$out/shards" run.dir="$out" run.name=run ${overrides[@]+"${overrides[@]}"} || {
    code=$?
    echo "training ended early (exit code $code): see above; the same command resumes it" >&2
    exit "$code"
}
echo "4/4 sampling"
dvae sample "$out/run" --count 25 --seed 0 --out "$out/samples.png"
dvae reconstruct "$out/run" "$out/shards" --count 16 --out "$out/reconstructions.png"

open=xdg-open
[ "$(uname)" != Darwin ] || open=open
cat <<END

New pictures          $out/samples.png
                      $open $out/samples.png
Reconstructions       $out/reconstructions.png   (held-out pictures over what came back)
                      $open $out/reconstructions.png
Weights               $out/run/weights
                      .venv/bin/dvae sample $out/run --count 25 --seed 1 --out more.png
TensorBoard           $out/run/tensorboard
                      .venv/bin/tensorboard --logdir $out/run/tensorboard
END
