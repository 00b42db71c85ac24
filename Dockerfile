FROM python:3.14-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEPOST_DATA_DIR=/data \
    GATEPOST_RUN_AS=10002 \
    GATEPOST_WORKSPACE_UIDS=20000-59999

WORKDIR /app

COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt \
    && install -d -m 0711 /data

COPY backend backend
COPY frontend frontend
# Compiled once: nothing is written in a container, so every start there would compile it again.
RUN python -m compileall -q backend

# No USER: as root, which may be one with few capabilities, commands run as other users than the service.
VOLUME /data
EXPOSE 8000

HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"PORT\", \"8000\")}/health', timeout=4)"]

# A volume of an earlier image is closed to the users of commands.
CMD ["sh", "-c", "chmod 711 /data 2>/dev/null; exec python -m backend serve --host 0.0.0.0 --port ${PORT:-8000}"]
