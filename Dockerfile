# One image for every process of Roundtrip: docker run roundtrip api | worker | beat | migrate | …
FROM python:3.12-slim AS build

RUN pip install --no-cache-dir uv==0.13.8
ENV UV_PROJECT_ENVIRONMENT=/opt/roundtrip \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
WORKDIR /build

# What it depends on changes seldom, so it is a layer of its own.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project

COPY README.md ./
COPY service ./service
COPY tasks ./tasks
COPY migrations ./migrations
RUN uv sync --frozen --no-dev --no-editable


FROM python:3.12-slim

# The number is part of the interface: it owns what is in the volumes.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/roundtrip --shell /usr/sbin/nologin roundtrip \
    && install -d -o roundtrip -g roundtrip -m 0750 /var/lib/roundtrip
COPY --from=build /opt/roundtrip /opt/roundtrip

ENV PATH=/opt/roundtrip/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ROUNDTRIP_DATA=/var/lib/roundtrip
USER roundtrip
WORKDIR /var/lib/roundtrip
EXPOSE 8000

# What is healthy differs from process to process, so compose.yaml says it, and not the image.
ENTRYPOINT ["roundtrip"]
CMD ["api", "--host", "0.0.0.0", "--port", "8000"]
