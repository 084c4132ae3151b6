"""What the inference chart runs and needs besides llama-server: fetching a model, describing one."""
