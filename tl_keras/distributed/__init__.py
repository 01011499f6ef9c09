"""Several replicas and several processes that share the work.

`distribution` chooses the strategy, `joining` waits for the other processes before training,
`cluster` is what they say to each other, and `local_cluster` starts them on this machine.

It may import `config`, `errors`, `runtime` and `storage`.
"""
