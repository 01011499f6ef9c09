"""Files on disk, which survive a killed process and a full disk.

`files` writes files atomically. `workdir` is the folder of an experiment; `results`, `predictions`
and `finished_runs` are the results of runs.

It may import `config` and `errors`.
"""
