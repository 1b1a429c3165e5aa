//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
)

var errSystem = errors.New("only Linux can be measured: it takes direct reads, cachestat and /proc")

func run(context.Context, io.Writer, io.Writer, options) error { return errSystem }

func measureOverhead(context.Context, io.Writer, io.Writer, []string) error { return errSystem }

func receive(io.Reader, io.Writer) error { return errSystem }
