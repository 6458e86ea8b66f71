"""Configuration: models, YAML loading with path-aware errors, templates."""

from cgal_plugin.config.load import dump_yaml, load_yaml, parse_config
from cgal_plugin.config.models import Config

__all__ = ["Config", "dump_yaml", "load_yaml", "parse_config"]
