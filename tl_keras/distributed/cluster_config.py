"""How the environment names the processes that train together: TF_CONFIG, or Slurm's variables.

Light to import, as the command line is: what is wrong here is said before TensorFlow is loaded.
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


def named_by(strategy: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the variable that names a cluster which this process is to join; '' for none.

    A cluster of one process is none: it trains as it would without.

    Args:
        strategy: of the flags; only "auto" and "multi_worker" look for a cluster.
        environment: variables by name.

    Raises:
        UsageError: TF_CONFIG is no cluster, or there is no cluster and the flag asks for one.
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
            "--strategy=multi_worker finds no cluster: set TF_CONFIG, start it with srun, or with"
            " python -m tl_keras.launch --workers=2 -- FLAGS"
        )
    return ""


def _read(text: str) -> dict[str, list[str]]:
    """Return the addresses of each job in a TF_CONFIG that is sound."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(text, f"is not JSON ({error})") from None
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not cluster:
        raise _wrong(text, "has no 'cluster'")
    for job, addresses in cluster.items():
        if job not in ("chief", "worker"):
            raise _wrong(text, f"names a job '{job}', and there are only worker and chief")
        if not isinstance(addresses, list) or not addresses:
            raise _wrong(text, f"has no list of addresses for '{job}'")
        for address in addresses:
            if not _is_address(address):
                raise _wrong(text, f"has an address {address!r}, which is no HOST:PORT")
    if len(cluster.get("chief", [])) > 1:
        raise _wrong(text, "has more than one chief")
    known = [address for addresses in cluster.values() for address in addresses]
    if len(set(known)) < len(known):
        raise _wrong(text, "names an address twice")
    _check_task(text, config.get("task"), cluster)
    return cluster


def _is_address(address: Any) -> bool:
    match = re.fullmatch(r"([^\s:/]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})", str(address))
    return isinstance(address, str) and match is not None and 0 < int(match[2]) < 65536


def _check_task(text: str, task: Any, cluster: Mapping[str, list[str]]) -> None:
    if not isinstance(task, dict) or task.get("type") not in list(cluster):
        raise _wrong(text, "has no 'task' with the 'type' of one of its jobs")
    index, count = task.get("index"), len(cluster[task["type"]])
    if not re.fullmatch("[0-9]{1,9}", str(index)) or int(str(index)) >= count:
        raise _wrong(text, f"has a task index {index!r}, and there are 0 to {count - 1}")


def _wrong(text: str, reason: str) -> UsageError:
    shown, reason = (one if len(one) <= 200 else f"{one[:200]}..." for one in (text, reason))
    return UsageError(
        f"TF_CONFIG={shown} {reason}: write it as in {EXAMPLE}, or unset it to train in one process"
    )
