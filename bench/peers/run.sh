#!/usr/bin/env bash
# Compares reading a checkpoint by Python peers with loading it by coldload, by the method of bench/limits.
#
#   bench/peers/run.sh CHECKPOINT [flags of bench/limits]
#
# The peers come from PyPI into a folder that is made once: $VENV, by default .venv beside this file (6 GB, most of it torch). One that cannot
# be installed or imported here is named and left out.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${VENV:-$here/.venv}
[[ $# -ge 1 ]] || { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
checkpoint=$(realpath "$1")
shift

if [[ ! -x $venv/bin/python ]]; then
	python3 -m venv "$venv"
fi
while read -r package; do
	"$venv/bin/pip" install --quiet --disable-pip-version-check "$package" || echo "cannot be installed here: $package" >&2
done < <(grep -v '^#' "$here/requirements.txt")

peers=()
for peer in safetensors safetensors_copied runai_model_streamer fastsafetensors; do
	if "$venv/bin/python" "$here/read.py" "$peer" --check; then
		peers+=(--peer "$peer=$venv/bin/python $here/read.py $peer")
	else
		echo "cannot be used here, left out: $peer" >&2
	fi
done
cd "$here/../.."
exec go run ./bench/limits "${peers[@]}" "$@" "$checkpoint"
