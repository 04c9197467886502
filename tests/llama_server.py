"""llama.cpp's server for a GGUF file on the loopback: prints its address, and serves until its standard input ends."""

from __future__ import annotations

import sys

import xllamacpp


def main(gguf: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.n_parallel, params.kv_unified, params.n_ctx = 8, True, 8192
    params.port = 0
    params.endpoint_slots = params.endpoint_metrics = True
    params.warmup = False
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = 1  # more would spin at their barriers for seconds where the cores are shared
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}/v1\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
