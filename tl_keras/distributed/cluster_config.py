"""The cluster's description in the environment: TF_CONFIG, or Slurm's variables.

Light to import, so that mistakes are reported before TensorFlow is loaded.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from tl_keras.errors import UsageError

TF_CONFIG = "TF_CONFIG"
SLURM_TASKS = "SLURM_STEP_NUM_TASKS"

EXAMPLE = (
    '{"cluster": {"worker": ["host0:12345", "host1:12345"]},'
    ' "task": {"type": "worker", "index": 0}}'
)


def find_cluster_variable(strategy: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the variable that describes the cluster to join, or '' for none.

    A cluster of one process counts as none.

    Args:
        strategy: value of --strategy. Only "auto" and "multi_worker" look for a cluster.
        environment: variables by name.

    Raises:
        UsageError: TF_CONFIG is invalid, or there is no cluster and --strategy=multi_worker.
    """
    if strategy not in ("auto", "multi_worker"):
        return ""
    if environment.get(TF_CONFIG):
        cluster = _read(environment[TF_CONFIG])
        return TF_CONFIG if sum(len(addresses) for addresses in cluster.values()) > 1 else ""
    tasks = environment.get(SLURM_TASKS, "1")
    if re.fullmatch("[0-9]{1,9}", tasks) and int(tasks) > 1:
        return SLURM_TASKS
    if strategy == "multi_worker":
        raise UsageError(
            "--strategy=multi_worker finds no cluster. Set TF_CONFIG, start it with srun, or with"
            " python -m tl_keras.launch --workers=2 -- FLAGS"
        )
    return ""


def _read(text: str) -> dict[str, list[str]]:
    """Return the addresses of each job in TF_CONFIG."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _tf_config_error(text, f"is not JSON ({error})") from None
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not cluster:
        raise _tf_config_error(text, "has no 'cluster'")
    for job, addresses in cluster.items():
        if job not in ("chief", "worker"):
            raise _tf_config_error(text, f"names a job '{job}'. Allowed are worker and chief")
        if not isinstance(addresses, list) or not addresses:
            raise _tf_config_error(text, f"has no list of addresses for '{job}'")
        for address in addresses:
            if not _is_address(address):
                raise _tf_config_error(text, f"has an address {address!r}, which is not HOST:PORT")
    if len(cluster.get("chief", [])) > 1:
        raise _tf_config_error(text, "has more than one chief")
    known = [address for addresses in cluster.values() for address in addresses]
    if len(set(known)) < len(known):
        raise _tf_config_error(text, "names an address twice")
    _check_task(text, config.get("task"), cluster)
    return cluster


def _is_address(address: Any) -> bool:
    match = re.fullmatch(r"([^\s:/]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})", str(address))
    return isinstance(address, str) and match is not None and 0 < int(match[2]) < 65536


def _check_task(text: str, task: Any, cluster: Mapping[str, list[str]]) -> None:
    if not isinstance(task, dict) or task.get("type") not in list(cluster):
        raise _tf_config_error(text, "has no 'task' whose 'type' is one of its jobs")
    index, count = task.get("index"), len(cluster[task["type"]])
    if not re.fullmatch("[0-9]{1,9}", str(index)) or int(str(index)) >= count:
        raise _tf_config_error(text, f"has a task index {index!r}. Allowed are 0 to {count - 1}")


def _tf_config_error(text: str, reason: str) -> UsageError:
    shown, reason = (one if len(one) <= 200 else f"{one[:200]}..." for one in (text, reason))
    return UsageError(
        f"TF_CONFIG={shown} {reason}. Write it as in {EXAMPLE}, or unset it to train in one process"
    )
