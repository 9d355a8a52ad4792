# dss in a container: `docker run IMAGE train --help`. The default is for CPUs:
#   docker build --build-arg=ACCELERATOR=gpu --tag=dss .
#   docker run --gpus=all --volume="$PWD":/work --user="$(id -u)" dss train --gin_file=...
FROM python:3.12-slim
ARG ACCELERATOR=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# Dependencies first, by installing a package without content: this layer stays until setup.py
# changes. TensorFlow, jax and their friends are gigabytes.
WORKDIR /opt/dss_jax
COPY setup.py pyproject.toml ./
COPY dss_jax/__init__.py dss_jax/
RUN case "$ACCELERATOR" in \
      cpu) extra= ;; \
      gpu | tpu) extra="[$ACCELERATOR]" ;; \
      *) echo "ACCELERATOR=$ACCELERATOR: use cpu, gpu or tpu" >&2; exit 1 ;; \
    esac \
    && mkdir gin tasks \
    && touch README.md LICENSE \
    && pip install ".$extra" \
    && pip uninstall --yes dss_jax \
    && rm -rf build dss_jax.egg-info

COPY README.md LICENSE ./
COPY gin gin
COPY tasks tasks
COPY dss_jax dss_jax
RUN pip install --no-deps . && rm -rf build dss_jax.egg-info

# Writable also for --user=..., so that a mounted folder's owner can run it.
RUN useradd --uid=1000 dss && mkdir --mode=1777 /work
ENV HOME=/tmp
USER dss
WORKDIR /work
ENTRYPOINT ["dss"]
CMD ["--help"]
