# The GPU image: pcr-run on the official vLLM image, which brings CUDA, torch and transformers.
#   docker build -t pcr-run .
#   docker run --gpus all --ipc=host --init -v "$PWD/outputs:/work/outputs" -v hub:/work/hub -e HF_HOME=/work/hub \
#     pcr-run scale=paper resolver=pcr
# The tests lint this file and resolve what it installs (make test-docker-lines); they do not build it. The mounted
# directory must be writable for user 10001.
FROM vllm/vllm-openai:v0.32.0

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/pcr-run
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY hydra_plugins hydra_plugins
COPY pcr_run pcr_run
# All that the paper's experiments need. The image's own torch, transformers and vllm stay: vllm is named among the
# extras so that a version which does not fit what it asks for fails here, not at run time.
RUN python3 -m pip list --format=freeze | grep -E '^(torch|transformers|vllm)==' > /tmp/constraints.txt \
    && python3 -m pip install --no-cache-dir --constraint /tmp/constraints.txt '.[vllm,torchjd,report,humaneval,lm-eval,lora,torchao,launchers]' \
    && rm /tmp/constraints.txt \
    && useradd --create-home --uid 10001 pcr \
    && install --directory --owner=pcr /work /work/outputs /work/hub

USER 10001
WORKDIR /work
ENTRYPOINT ["pcr-run"]
