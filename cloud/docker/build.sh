#!/bin/bash
# Build the image and push it to the account's own registry:  cloud/docker/build.sh REGION [gpu|cpu] [PREFIX]
# Needs Docker with BuildKit, the AWS command line, and what cloud/policies/image-builder.json allows.
set -euo pipefail
cd "$(dirname "$0")/../.."

region=${1:?"give the region, such as us-east-1"}
kind=${2:-gpu}
name=${3:-brain-tumour}
case $kind in
    gpu) instance=ml.g5.xlarge ;;
    cpu) instance=ml.m5.xlarge ;;
    *) echo "the second word is gpu or cpu, not $kind" >&2; exit 2 ;;
esac

# The tag is the commit, and the registry never lets a tag be written again.
if [ -n "$(git status --porcelain -- helpers packages cloud/docker pyproject.toml requirements.lock README.md LICENSE)" ]; then
    echo "commit your changes first: the image is named after the commit that it holds" >&2
    exit 1
fi

base=$(python3 - "$region" "$instance" <<'PYTHON'
import sys

from sagemaker.core import image_uris

region, instance = sys.argv[1:]
options = {"framework": "pytorch-amzn2023", "version": "2.13", "image_scope": "training"}
print(image_uris.retrieve(region=region, instance_type=instance, **options))
PYTHON
)
account=$(aws sts get-caller-identity --query Account --output text)
registry=$account.dkr.ecr.$region.amazonaws.com
image=$registry/$name:$(git rev-parse --short HEAD)-$kind

for host in "${base%%/*}" "$registry"; do
    aws ecr get-login-password --region "$region" | docker login --username AWS --password-stdin "$host"
done
aws ecr describe-repositories --region "$region" --repository-names "$name" > /dev/null 2>&1 \
    || aws ecr create-repository --region "$region" --repository-name "$name" --image-tag-mutability IMMUTABLE > /dev/null

manifest() {
    aws ecr describe-images --region "$region" --repository-name "$name" --image-ids imageTag="${image##*:}" \
        --query 'imageDetails[0].imageManifestMediaType' --output text
}

# SageMaker takes Docker's own manifest, no list (which provenance makes) and none of OCI (which Docker makes by default):
# https://github.com/aws/amazon-sagemaker-feedback/issues/180
if ! manifest > /dev/null 2>&1; then
    docker build --platform linux/amd64 --provenance=false --output type=docker --build-arg BASE="$base" \
        --file cloud/docker/Dockerfile --tag "$image" .
    docker push "$image"
fi
if [ "$(manifest)" != application/vnd.docker.distribution.manifest.v2+json ]; then
    echo "SageMaker would refuse the manifest of $image, which is $(manifest); delete it in ECR and switch Docker's containerd image store off" >&2
    exit 1
fi
echo "$image"
