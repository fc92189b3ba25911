#!/bin/bash
# Lifecycle script "on start" of a notebook instance: at every start the kernel is registered again, since only ~/SageMaker
# outlives a stop, and the instance is told to stop itself when nobody has used it for a while.
set -euo pipefail

IDLE_MINUTES=60
USER_NAME=ec2-user
FOLDER=/home/$USER_NAME/SageMaker/brain-tumour

if [ -x "$FOLDER/.venv/bin/python" ]; then
    sudo -u "$USER_NAME" -H "$FOLDER/.venv/bin/python" -m ipykernel install --user \
        --name brain-tumour --display-name "Brain-tumour segmentation"
fi

# A timer of systemd, since AL2023 has no cron. Until the repository is there, or where it is not, nothing happens.
systemd-run --unit=idle-stop --on-active=10min --on-unit-active=5min --property=User="$USER_NAME" \
    /bin/bash -c "[ ! -f $FOLDER/cloud/lifecycle/idle_stop.py ] || python3 $FOLDER/cloud/lifecycle/idle_stop.py $IDLE_MINUTES"
