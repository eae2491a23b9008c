# Two stages on one base: the first installs the locked packages, the second only takes them.
FROM python:3.12-slim AS packages

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY locks/service.txt /tmp/service.txt
# Wheels only: nothing is compiled, so neither stage needs a compiler.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --only-binary :all: --require-hashes -r /tmp/service.txt \
    && /opt/venv/bin/pip uninstall --yes pip

FROM python:3.12-slim

# numeric, so that an orchestrator can see that it is not root
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin finmind
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY alembic.ini pyproject.toml ./
COPY alembic ./alembic
COPY service ./service

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ENVIRONMENT=production \
    HOST=0.0.0.0 \
    PORT=8000 \
    WORKER_PORT=8001
USER 10001:10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-m", "service.probe"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]
