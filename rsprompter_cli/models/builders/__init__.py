"""From a configuration to modules, put together by keyword."""
