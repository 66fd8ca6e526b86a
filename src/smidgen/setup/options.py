"""A method's options as they are given, by name and perhaps as texts, made into its configuration, once per fit."""

from __future__ import annotations

import dataclasses

from smidgen.config import Config
from smidgen.methods import FUSION, read_options
from smidgen.model import Model
from smidgen.setup.encoder import with_encoder
from smidgen.setup.fine_tuning import frozen_fit, has_two_fits, tuning_fit
from smidgen.setup.method import TUNING, by_options, is_fine_tuned, method_options


def read_early(config: Config) -> Config:
    """Return the configuration as `with_options` does, before anything else is opened.

    With `init_from` it stays as it is, because that run has a say in the encoder, and so it does where it stands for
    two fits; wrong options are refused all the same.
    """
    read = with_options(config)
    return config if config.init_from is not None or has_two_fits(config) else read


def with_options(config: Config, *, start: Model | None = None) -> Config:
    """Return the configuration with its options read, and the encoder where it belongs.

    `encoder` is what is frozen, `options` has what is trained. Of `fusion` the options are those that are given, until
    it is decided which method it is; of every other method they are its own configuration, which is made here once.
    start: the model of the run to start from. Raises InputError for an unknown method, and for options and encoders
    that are unknown, out of their range or do not go together. Of two fits it is the second.
    """
    if start is None and has_two_fits(config):
        with_options(frozen_fit(config))  # may refuse
        config = dataclasses.replace(config, weights=None)  # they are the frozen encoder's
    if is_fine_tuned(config):
        config = tuning_fit(config)
    config = with_encoder(config, start)
    if config.method != FUSION:
        return dataclasses.replace(config, options=method_options(config.method, config.options))
    options = read_options(TUNING if is_fine_tuned(config) else FUSION, config.options)
    config = dataclasses.replace(config, options=options)
    by_options(config)  # may refuse
    return config
