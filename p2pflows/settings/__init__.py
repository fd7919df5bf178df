"""What the parts of `config.yaml` may say; `p2pflows.config` reads the file."""
