# syntax=docker/dockerfile:1
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# Further package index, such as PyTorch's for the CPU builds: without it the image carries CUDA.
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
RUN python -m venv /opt/rowvec/venv
ENV PATH=/opt/rowvec/venv/bin:$PATH
# The dependencies first, in a layer of their own: they are large and change seldom.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/requirements.txt \
    && pip install -r /tmp/requirements.txt
COPY README.md LICENSE ./
COPY operators ./operators
COPY flows ./flows
RUN --mount=type=cache,target=/root/.cache/pip pip install '.[postgres]'

FROM build AS model
# A Hugging Face name and a commit of it; without a model, mount one at /opt/rowvec/model.
ARG MODEL=""
ARG MODEL_REVISION=""
RUN <<EOF
set -eu
mkdir -p /opt/rowvec/model
if [ -n "$MODEL" ]; then
  if [ -z "$MODEL_REVISION" ]; then echo "MODEL needs MODEL_REVISION, a commit" >&2; exit 1; fi
  hf download "$MODEL" --revision "$MODEL_REVISION" --local-dir /opt/rowvec/model \
    --include "*.json" --include "*.txt" --include "*.model" --include "*.safetensors" \
    --exclude "onnx/*" --exclude "openvino/*"
  rm -rf /opt/rowvec/model/.cache
fi
EOF

FROM python:${PYTHON}-slim
RUN groupadd --gid 10001 rowvec \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin rowvec
COPY --from=build /opt/rowvec/venv /opt/rowvec/venv
COPY --from=model /opt/rowvec/model /opt/rowvec/model
# The root is read-only where it runs: what wants a home writes to /tmp.
ENV PATH=/opt/rowvec/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    # Threads that spin between two batches burn the CPU that the pod is limited to.
    OMP_WAIT_POLICY=PASSIVE \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 10001:10001
# The exec form: Rowvec is process 1, and passes SIGTERM on to the flow that it starts.
ENTRYPOINT ["rowvec"]
CMD ["run"]
