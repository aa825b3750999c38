# Runs the tour: docker build -t lmlab . && docker run -v "$PWD/lab:/lmlab/lab" lmlab
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /lmlab
COPY . .
RUN make .venv/.installed
CMD ["make", "tour"]
