"""Pure: a run's steps -> Kubernetes objects, as the plain dicts that their YAML says."""
