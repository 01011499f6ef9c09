"""Runs experiments, from a configuration to a report.

`experiment.run` checks the settings (`validate`), opens the data (`setup`), gets the source's
weights (`source`), trains and tests each arm of each seed (`train_and_test`), and reports.
`comparison` runs many methods at once.

It may import `config`, `data`, `distributed`, `errors`, `methods`, `models`, `pictures`, `report`,
`runtime`, `storage` and `training`.
"""
