#!/usr/bin/env bash
# build.sh cpu|cuda [NAME] [docker build options]: builds the job image on a base that is pinned by digest.
#
#   infra/docker/build.sh cpu
#   EXTRAS=diffusers,c2pa,vllm infra/docker/build.sh cuda registry.example.com/promptmill --push
#
# BASE_DIGEST pins the base; without it today's digest of debian:bookworm-slim is looked up and printed: keep it.
set -euo pipefail

accelerator=${1:?cpu or cuda}
name=${2:-promptmill}
shift $(($# < 2 ? $# : 2))
case $accelerator in
    cpu | cuda) ;;
    *)
        echo "build.sh: '$accelerator' is neither cpu nor cuda" >&2
        exit 2
        ;;
esac

cd "$(dirname "$0")/../.."
image=docker.io/library/debian:bookworm-slim
digest=${BASE_DIGEST:-$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
echo "BASE_DIGEST=$digest"

arguments=(
    --file infra/docker/Dockerfile
    --build-arg "ACCELERATOR=$accelerator"
    --build-arg "BASE_DIGEST=$digest"
    --build-arg "VERSION=$version"
    --build-arg "REVISION=$(git rev-parse HEAD)"
)
if [[ -n ${EXTRAS:-} ]]; then
    arguments+=(--build-arg "EXTRAS=$EXTRAS")
fi
# --sbom and --provenance attest the whole image, Debian's packages included; the file is for those who read one.
docker buildx build "${arguments[@]}" --target job --tag "$name:$version-$accelerator" --sbom=true --provenance=true "$@" .
docker buildx build "${arguments[@]}" --target sbom --output "out/sbom-$accelerator" .
