"""A run's GGUF as a Helm release: values, promotion, rollback."""
