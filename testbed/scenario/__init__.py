"""Scenario files (TOML) to frozen, validated objects with units."""
