# A lock without torch and the CUDA libraries that only PyPI's torch needs. A package's lines after the first are indented.
/^[^ ]/ { dropped = /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ }
!dropped
