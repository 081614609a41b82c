module tidegate/bench/nanoproxy

go 1.24
