"""Options and fixtures that every suite shares."""

import pytest


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Accept `--randomly`; load holdfast's plugin, which pyproject.toml keeps from loading too early."""
    parser.addoption(
        "--randomly",
        action="store_true",
        help="random order, the default; accepted so that the command reads as it means",
    )
    if not pluginmanager.hasplugin("holdfast"):
        pluginmanager.import_plugin("holdfast.testing.plugin")
