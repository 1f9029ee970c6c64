#!/usr/bin/env bash
# Runs a command as a job of SLURM, one task a GPU; a job that is taken away goes on by itself.
#
#     sbatch --nodes 2 --gpus-per-node 4 --ntasks-per-node 4 scripts/slurm.sh \
#         fit --config configs/qlora.yaml
#
# SLURM sends SIGTERM two minutes before the time is over, or as long as the partition allows before
# it takes the machines for somebody else. The fit then finishes its optimizer step, saves, and
# leaves with 143; with --trainer.max_time it leaves with 124. After these two the job is put back
# into the queue, and the same command resumes it. After any other code it ends with that code.
#
#SBATCH --job-name=amazon_desc
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --time=24:00:00
set -uo pipefail

# Where its processes meet: the first machine, and a port that other jobs of it do not have.
MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
export MASTER_ADDR MASTER_PORT

srun --kill-on-bad-exit=1 --wait=60 python -m amazon_desc "$@" &
step=$!

# SIGTERM reaches the shell alone (B:), and srun hands it on. It ends the wait, not the step.
trap 'is_told=1; kill -TERM "$step" 2> /dev/null' TERM
is_told=1
while [ "$is_told" -eq 1 ]; do
    is_told=0
    wait "$step"
    code=$?
done

if [ "$code" -eq 143 ] || [ "$code" -eq 124 ]; then
    echo "slurm.sh: stopped with $code; job $SLURM_JOB_ID is put back into the queue." >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
