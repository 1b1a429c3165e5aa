#!/bin/sh
# Writes the assembly kernels anew. With -check it fails when that changes anything, as CI wants it.
set -eu
cd "$(dirname "$0")"
export GOWORK=off GOFLAGS=-mod=readonly GOOS= GOARCH=
for kernels in repack:stages/repack convert:internal/convert decode:stages/decode; do
	name=${kernels%%:*} dir=../../${kernels#*:}
	if [ "${1-}" = -check ]; then
		cp "$dir/kernels_amd64.s" "$dir/kernels_amd64.s.before"
		cp "$dir/stubs_amd64.go" "$dir/stubs_amd64.go.before"
	fi
	go run . -kernels "$name" -pkg "$name" -out "$dir/kernels_amd64.s" -stubs "$dir/stubs_amd64.go"
	if [ "${1-}" = -check ]; then
		ok=true
		for f in kernels_amd64.s stubs_amd64.go; do
			diff -u "$dir/$f.before" "$dir/$f" || ok=false
			rm "$dir/$f.before"
		done
		$ok || { echo "$dir: the kernels are not what internal/asm generates: run internal/asm/generate.sh" >&2; exit 1; }
	fi
done
