module masche.dev/bench/load

go 1.24
