"""Configuration: fields, validation, presets and files. A method's own settings stand beside the method."""
