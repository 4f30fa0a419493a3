"""Hardware: number formats, memory, threads and CPU kernels."""
