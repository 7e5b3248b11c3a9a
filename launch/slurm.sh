#!/usr/bin/env bash
# A run on several machines by SLURM: sbatch launch/slurm.sh experiment=own ... output=/shared/runs; arguments are overrides.
# output= must be on a file system that all machines share. Started again or requeued, the job continues the run.
# Adapt machines, GPUs, cores and time; a cluster may also need --partition and --account.
#SBATCH --job-name=mapft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
# source /shared/venv/bin/activate
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")  # the first line
# If a process fails, srun ends all others. Each node has its own SLURM_NODEID.
exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash -c 'exec mapft launch multi_node --machine_rank "$SLURM_NODEID" "$@"' - \
  --num_machines "$SLURM_NNODES" --processes "$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-1}))" \
  --main_process_ip "$head" --main_process_port "$((20000 + SLURM_JOB_ID % 10000))" -- "$@"
