//! GPUs: what is there (NVML or simulated), and who owns which.
