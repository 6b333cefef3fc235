# Ingest and targets on CPU, the Prefect worker and the MLflow server.
# Build from the repository root: docker build -f infra/prep.Dockerfile -t spa3r-prep .
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends git libusb-1.0-0 libgl1 libgomp1 libx11-6 \
    && rm -rf /var/lib/apt/lists/*

ENV DO_NOT_TRACK=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    RAY_USAGE_STATS_ENABLED=0 \
    PIP_NO_CACHE_DIR=1

WORKDIR /opt/spa3r
COPY requirements.lock ./
RUN pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-deps -r requirements.lock
COPY . .
RUN pip install --no-deps --no-build-isolation -e .

RUN useradd --create-home spa3r
USER spa3r
CMD ["spa3r", "doctor"]
