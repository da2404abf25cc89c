"""The YAML groups, shipped as a package."""
