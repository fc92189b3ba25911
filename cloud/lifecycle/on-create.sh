#!/bin/bash
# Lifecycle script "on create" of a notebook instance (notebook-al2023-v1, JupyterLab 4).
# Makes the environment under ~/SageMaker, the only folder that outlives a stop, in the background: a lifecycle script may take
# 5 minutes, and the set-up takes longer. Its log is ~/SageMaker/set-up.log; the kernel appears in JupyterLab when it is done.
set -euo pipefail

REPOSITORY=https://github.com/OWNER/brain-tumour-segmentation.git
USER_NAME=ec2-user
HOME_FOLDER=/home/$USER_NAME/SageMaker

cat > "$HOME_FOLDER/set-up.sh" <<'SETUP'
#!/bin/bash
set -euo pipefail
repository=$1
cd "$HOME/SageMaker"
[ -d brain-tumour/.git ] || git clone --depth 1 "$repository" brain-tumour
cd brain-tumour
export PIP_CACHE_DIR=$HOME/SageMaker/.cache/pip TMPDIR=$HOME/SageMaker/.cache
mkdir -p "$TMPDIR"
command -v nvidia-smi > /dev/null || export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu  # without a GPU, torch without CUDA
python=$(command -v python3.12 || command -v python3.11) || {
    sudo dnf -y -q install python3.11
    python=$(command -v python3.11)
}
# Sets up .venv from requirements.lock, as every target of make does first.
make .venv/.ready PYTHON="$python"
.venv/bin/python -m ipykernel install --user --name brain-tumour --display-name "Brain-tumour segmentation"
touch "$HOME/SageMaker/set-up.done"
SETUP

chown "$USER_NAME:$USER_NAME" "$HOME_FOLDER/set-up.sh"
chmod 755 "$HOME_FOLDER/set-up.sh"
sudo -u "$USER_NAME" -H nohup bash "$HOME_FOLDER/set-up.sh" "$REPOSITORY" > "$HOME_FOLDER/set-up.log" 2>&1 < /dev/null &
