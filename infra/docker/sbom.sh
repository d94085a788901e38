#!/usr/bin/env bash
# sbom.sh PYTHON OUT.json: the inventory of the environment that an interpreter belongs to, as CycloneDX JSON.
set -euo pipefail

python=${1:?the interpreter, e.g. .venv/bin/python}
out=${2:?the file to write, e.g. out/sbom.cdx.json}
root=$(cd "$(dirname "$0")/../.." && pwd)
# The one place where the version stands is the Dockerfile.
tool=$(sed -n 's/^ARG CYCLONEDX=//p' "$root/infra/docker/Dockerfile")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/tool"
"$scratch/tool/bin/pip" install --quiet --disable-pip-version-check "$tool"
mkdir -p "$(dirname "$out")"
"$scratch/tool/bin/cyclonedx-py" environment --pyproject "$root/pyproject.toml" --output-reproducible \
    --output-file "$out" "$python"
echo "$out"
