//go:build !linux

// Command slowfs is for Linux.
package main

func main() { panic("slowfs needs FUSE of Linux") }
