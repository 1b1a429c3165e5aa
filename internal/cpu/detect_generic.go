//go:build purego || !amd64

package cpu

func detect() Features { return Features{} }
