module mailauth/benchmarks/peers/go-smtp

go 1.19

require github.com/emersion/go-smtp v0.12.1
