"""What several tests share: models and files in small, stand-ins of packages, readers of fixtures."""
