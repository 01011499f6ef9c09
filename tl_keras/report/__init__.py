"""Reports: metrics, confidence intervals, verdicts, tables, plots, and TensorBoard.

It may import `config`, `errors`, `pictures` and `storage`.
"""
