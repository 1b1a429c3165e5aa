//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
)

var errSystem = errors.New("only Linux can be measured: it takes direct reads, cachestat and /proc")

func run(context.Context, io.Writer, io.Writer, options) error { return errSystem }

func loadOnce(context.Context, []string) error { return errSystem }
