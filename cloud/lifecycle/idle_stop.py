"""Stop this notebook instance when no kernel and no terminal has been used for some minutes.

    python3 idle_stop.py MINUTES

Only the standard library and the AWS command line are used, so that it runs with the Python of the machine, which on AL2023 is
3.9. The role of the instance needs what cloud/policies/notebook-instance.json allows.
"""

import json
import ssl
import subprocess
import sys
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

SERVER = "https://localhost:8443/api/"
METADATA = Path("/opt/ml/metadata/resource-metadata.json")
UPTIME = Path("/proc/uptime")


def idle_minutes(kernels, terminals, *, now, up_minutes):
    """Minutes for which nothing has been done, at most those since the start; 0 while a kernel works.

    `kernels` and `terminals` are what Jupyter's API lists; a kernel has `execution_state` and `last_activity`, a terminal
    `last_activity`.
    """
    if any(kernel["execution_state"] in ("busy", "starting") for kernel in kernels):
        return 0.0
    times = [datetime.fromisoformat(each["last_activity"].replace("Z", "+00:00")) for each in [*kernels, *terminals]]
    ages = [(now - each).total_seconds() / 60 for each in times]
    return max(min([up_minutes, *ages]), 0.0)


def ask(what):
    """What Jupyter lists; its certificate is its own, and the way to it does not leave the machine."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(SERVER + what, timeout=20, context=context) as answer:
        return json.load(answer)


def main():
    limit = float(sys.argv[1])
    up_minutes = float(UPTIME.read_text().split()[0]) / 60
    now = datetime.now(timezone.utc)  # noqa: UP017 - Python 3.9 has no datetime.UTC
    idle = idle_minutes(ask("kernels"), ask("terminals"), now=now, up_minutes=up_minutes)
    print(f"idle for {idle:.0f} of {limit:.0f} minutes")
    if idle >= limit:
        arn = json.loads(METADATA.read_text())["ResourceArn"]  # arn:aws:sagemaker:REGION:ACCOUNT:notebook-instance/NAME
        region, name = arn.split(":")[3], arn.rpartition("/")[2]
        command = ["aws", "sagemaker", "stop-notebook-instance", "--region", region, "--notebook-instance-name", name]
        subprocess.run(command, check=True)  # a timer of systemd sets no region


if __name__ == "__main__":
    main()
