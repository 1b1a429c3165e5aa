// Command limits measures, in one run, what this machine can do at most (copy memory, read and write its disk) and how near coldload comes
// to it; README.md of the folder above has the method.
//
//	go run ./bench/limits [flags] CHECKPOINT
//	go run ./bench/limits overhead [flags] CHECKPOINT
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	os.Exit(execute(context.Background(), os.Stdout, os.Stderr, os.Args[1:]))
}

// execute is the program; it returns the exit code: 0 done, 1 failed, 2 wrong usage.
func execute(ctx context.Context, out, log io.Writer, args []string) int {
	switch {
	case len(args) > 0 && args[0] == overheadCommand:
		return failure(log, measureOverhead(ctx, out, log, args[1:]))
	case len(args) == 1 && args[0] == receiveCommand:
		return failure(log, receive(os.Stdin, out))
	}
	opt, err := parse(log, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(log, "limits:", err)
		return 2
	}
	return failure(log, run(ctx, out, log, opt))
}

func failure(log io.Writer, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(log, "limits:", err)
	return 1
}
