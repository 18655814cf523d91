"""Fast, safe loading of safetensors files: local, HTTP, S3, GCS, Azure; to the CPU or a device."""
