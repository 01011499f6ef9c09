"""Training on several replicas and in several processes.

`distribution` makes the strategy, `joining` connects the processes of a cluster, `cluster` is their
communication, and `local_cluster` starts them on this machine.

It may import `config`, `errors`, `runtime` and `storage`.
"""
