"""Settings of presets, as YAML; installed as `ingen3d.configs`."""
