"""Runs on Kubernetes. Nothing else imports the Kubernetes client."""
