"""The process: signal handling, Keras' global settings, library versions, and random seeds.

It may import `errors` and `storage`.
"""
