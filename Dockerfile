# Onepass on a CPU:      docker build -t onepass .
# on an NVIDIA GPU:      docker build -t onepass --build-arg GPU=1 .
# with weights inside:   docker build -t onepass --build-arg WEIGHTS=efficientnet-b0 .   (else they are in the volume /weights;
#                        EfficientNet-Lite's are inside in any case)
FROM python:3.11-slim-bookworm

ARG GPU=0
WORKDIR /onepass
COPY requirements*.txt ./
RUN if [ "$GPU" = 1 ]; then first=requirements-gpu.txt; else first=requirements-cpu.txt; fi && \
    python -m pip install --no-cache-dir -r requirements.txt -r "$first" -r requirements-formats.txt -r requirements-lite.txt

# nobody in particular, who owns what is written; UID= of whoever owns a folder of the host that is mounted
ARG UID=1000
RUN useradd --uid "$UID" --create-home onepass && \
    install -d -o onepass -g onepass artifacts /weights /weights/keras /weights/hub
COPY artifacts/README.md artifacts/
COPY extract extract
COPY heads heads
USER $UID
ENV KERAS_HOME=/weights/keras TFHUB_CACHE_DIR=/weights/hub PYTHONDONTWRITEBYTECODE=1

ARG WEIGHTS=
RUN if [ -n "$WEIGHTS" ]; then python -c "import sys; from extract.backbones import backbone; backbone.resolve(sys.argv[1])" "$WEIGHTS"; fi

VOLUME ["/onepass/artifacts", "/weights"]
HEALTHCHECK --interval=5m --timeout=30s CMD ["python", "-m", "extract", "--version"]
ENTRYPOINT ["python", "-m"]
CMD ["extract", "--help"]
