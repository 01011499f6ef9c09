"""The settings that may change when a workdir is continued."""

# They do not affect the results of a run.
NOT_PART_OF_THE_EXPERIMENT = (
    *("workdir", "data_dir", "debug", "seeds", "baseline", "source_weights_sha256"),
    *("checkpoint_every", "allow_changed", "deterministic"),
    # Cached and recomputed features are equal.
    "cache_gb",
    # Results do not depend on the number of replicas, up to floating-point rounding.
    *("strategy", "replicas", "startup_timeout"),
    # They are limits: the images that are left out are always those that cannot be decoded, and a
    # link that may not be followed is an error.
    *("max_bad_images", "max_pixels", "check_pictures", "follow_links"),
    # A picture is the same whenever it is decoded.
    *("stream_pictures", "picture_cache", "picture_cache_gb"),
)
