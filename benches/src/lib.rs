//! Benchmarks of getty.
