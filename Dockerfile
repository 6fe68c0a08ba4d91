# One image for every role; the role is the command:
#   docker run loadsplit lightweight --host 0.0.0.0 --port 8101
# Dependencies come first, so that a change of our own code does not install them again; with every extra but `load`, which is Locust.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print('\n'.join(p['dependencies'] + [d for name, extra in p['optional-dependencies'].items() if name != 'load' for d in extra]))" > requirements.txt \
    && python -m venv /opt/loadsplit \
    && /opt/loadsplit/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY README.md LICENSE ./
COPY common common
COPY lightweight lightweight
COPY heavy heavy
COPY standalone standalone
COPY loadtests loadtests
COPY nginx nginx
COPY examples examples
RUN /opt/loadsplit/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps . \
    && /opt/loadsplit/bin/pip uninstall --yes --disable-pip-version-check pip

FROM python:3.13-slim
# /data: the ticket secret, SQLite. /rendered: what the compose file's `prepare` service writes. A volume takes its owner from here.
RUN groupadd --gid 10001 loadsplit \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin loadsplit \
    && install -d -o loadsplit -g loadsplit /data /rendered
COPY --from=build /opt/loadsplit /opt/loadsplit
COPY examples /app/examples
ENV PATH=/opt/loadsplit/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LOADSPLIT_DATA_DIR=/data \
    PORT=8000
WORKDIR /app
USER 10001:10001
EXPOSE 8000 8101 8201 8202 8301
# PORT is only for this check: give the role's --port here too where it is not 8000. By the shell: an interpreter every 5 s would cost more than
# an idle server does.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/$PORT && printf 'GET /livez HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["loadsplit"]
CMD ["--help"]
