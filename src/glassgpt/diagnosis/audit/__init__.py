"""Audits of a training step: each stage of it is compared with an independent computation from its own inputs."""
