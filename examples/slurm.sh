#!/bin/bash
# A training on two machines of four GPUs each, started by SLURM: sbatch examples/slurm.sh
# Change the lines with "<-". Every task is one process, and all of them train one model.

#SBATCH --job-name=otx
#SBATCH --nodes=2                # <- machines: --engine.num_nodes below says the same
#SBATCH --ntasks-per-node=4      # <- processes on each: --engine.num_devices below says the same
#SBATCH --gres=gpu:4             # <- GPUs on each; not --gpus-per-task, which would hide them from each other
#SBATCH --cpus-per-task=8        # <- decode images: about as many as a GPU needs to be kept busy
#SBATCH --time=12:00:00          # <- SIGTERM comes at its end: the best model is kept, and the log says how to go on
#SBATCH --output=otx-%j.log

set -euo pipefail

# <- otx must be found on every machine, and the folders below must be the same on all of them
# source /shared/venv/bin/activate

DATA=/shared/photos              # <- a folder of class folders
WORK=/shared/otx-workspace       # <- the run folder is made here, once

# Without srun there would be one process, whatever SLURM has reserved.
srun otx train \
    --data_root "$DATA" --work_dir "$WORK" \
    --model mobilenet_v3_large \
    --engine.num_devices "$SLURM_NTASKS_PER_NODE" --engine.num_nodes "$SLURM_NNODES"

# To go on with the run, put this in place of the command above:
# srun otx train --resume --work_dir "$WORK"
