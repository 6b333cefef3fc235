# Ray head and workers with CUDA: targets with VGGT/DINOv3 and pre-training.
# Build from the repository root: docker build -f infra/train.Dockerfile -t spa3r-train .
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.12 python3.12-venv git \
       libusb-1.0-0 libgl1 libgomp1 libx11-6 \
    && rm -rf /var/lib/apt/lists/*

ENV DO_NOT_TRACK=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    RAY_USAGE_STATS_ENABLED=0 \
    PIP_NO_CACHE_DIR=1 \
    VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH

WORKDIR /opt/spa3r
COPY requirements.lock ./
RUN python3.12 -m venv /opt/venv \
    && pip install torch==2.13.0 \
    && pip install --no-deps -r requirements.lock
COPY . .
RUN pip install --no-deps --no-build-isolation -e .

# The numeric user is the one that infra/raycluster.yaml requires (runAsNonRoot).
# /data exists and is that user's, so that a fresh named volume is too.
RUN useradd --create-home --uid 10001 spa3r \
    && install -d -o 10001 /data
USER 10001
CMD ["spa3r", "doctor"]
