# The GPU image: pcr-run on the official vLLM image, which brings CUDA, torch and transformers.
#   docker build -t pcr-run .
#   docker run --gpus all --ipc=host -v "$PWD/outputs:/work/outputs" pcr-run resolver=pcr task=math
# The tests lint this file; they do not build it. The mounted directory must be writable for user 10001.
FROM vllm/vllm-openai:v0.32.0

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/pcr-run
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY hydra_plugins hydra_plugins
COPY pcr_run pcr_run
# The image's own torch, transformers and vllm stay: a version that does not fit them fails here, not at run time.
RUN python3 -m pip list --format=freeze | grep -E '^(torch|transformers|vllm)==' > /tmp/constraints.txt \
    && python3 -m pip install --no-cache-dir --constraint /tmp/constraints.txt '.[torchjd]' \
    && rm /tmp/constraints.txt \
    && useradd --create-home --uid 10001 pcr \
    && install --directory --owner=pcr /work /work/outputs

USER 10001
WORKDIR /work
ENTRYPOINT ["pcr-run"]
