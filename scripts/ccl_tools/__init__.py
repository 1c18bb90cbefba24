"""What the commands in scripts/, the benchmarks and the tests share."""
