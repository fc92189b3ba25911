#!/bin/bash
# Lifecycle script "on start" of a notebook instance: at every start the instance is told to stop itself when nobody has used it
# for a while, and the kernel is registered again, since only ~/SageMaker outlives a stop.
set -euo pipefail

IDLE_MINUTES=60
USER_NAME=ec2-user
HOME_FOLDER=/home/$USER_NAME/SageMaker
FOLDER=$HOME_FOLDER/brain-tumour

# A timer of systemd, since AL2023 has no cron. Until the repository is there, or where it is not, nothing happens.
systemd-run --unit=idle-stop --on-active=10min --on-unit-active=5min --property=User="$USER_NAME" \
    /bin/bash -c "[ ! -f $FOLDER/cloud/lifecycle/idle_stop.py ] || python3 $FOLDER/cloud/lifecycle/idle_stop.py $IDLE_MINUTES"

# At the first start the set-up still runs in the background, and registers the kernel at its end. An instance whose script
# fails does not start at all, so a kernel that cannot be registered only gives a message.
if [ -f "$HOME_FOLDER/set-up.done" ]; then
    # A stop removes the Python that on-create.sh installed, to which .venv/bin/python is a link.
    [ -x "$FOLDER/.venv/bin/python" ] || dnf -y -q install python3.11 || true
    sudo -u "$USER_NAME" -H "$FOLDER/.venv/bin/python" -m ipykernel install --user \
        --name brain-tumour --display-name "Brain-tumour segmentation" || echo "the kernel is not registered" >&2
fi
