# A node of the Ray cluster of kuberay.yaml, and the place where the driver is started: this project with all of its packages.
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends git make npm wget && rm -rf /var/lib/apt/lists/*
WORKDIR /laboratory
COPY requirements.lock requirements-cluster.lock ./
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock \
    && pip install --no-cache-dir --require-hashes --no-deps -r requirements-cluster.lock
RUN useradd --create-home laboratory && chown laboratory /laboratory
USER laboratory
COPY --chown=laboratory . .
