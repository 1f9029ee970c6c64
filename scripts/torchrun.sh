#!/usr/bin/env bash
# Runs a command on the GPUs of several machines through torchrun: the same line on each of them.
#
#     NODES=2 NODE=0 MASTER=10.0.0.1 scripts/torchrun.sh fit --config configs/qlora.yaml
#
# NODES: machines (1)   NODE: number of this one, from 0 (0)   PROCESSES: its GPUs (all of them)
# MASTER: address of the first machine (127.0.0.1)   PORT: a free one of it (29500)
#
# torchrun leaves with 1 whatever the code of the command was; each machine's command says why.
set -euo pipefail

exec torchrun \
    --nnodes "${NODES:-1}" \
    --node-rank "${NODE:-0}" \
    --nproc-per-node "${PROCESSES:-gpu}" \
    --master-addr "${MASTER:-127.0.0.1}" \
    --master-port "${PORT:-29500}" \
    --max-restarts 0 \
    --shutdown-timeout 120 \
    -m amazon_desc "$@"
