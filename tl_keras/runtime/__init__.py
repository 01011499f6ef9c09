"""The process that the program runs in: signals, Keras' settings, versions, and random seeds.

It may import `errors` and `storage`.
"""
