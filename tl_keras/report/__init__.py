"""What is told of a run: figures, intervals, verdicts, tables, plots, and TensorBoard.

It may import `config`, `errors` and `storage`.
"""
