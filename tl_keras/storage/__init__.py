"""What is written to disk, and how it survives a killed process or a full disk.

`files` writes whole files or none. `workdir` is the folder of an experiment; `results`,
`predictions` and `finished_runs` are what a run leaves in it.

It may import `config` and `errors`.
"""
