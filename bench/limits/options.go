package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"time"
)

// options of a run.
type options struct {
	path    string         // the checkpoint
	other   string         // a larger one, to compare seconds per byte; may be empty
	work    string         // where files are written for a while: on the disk that is measured
	json    string         // file for all figures; may be empty
	program string         // the coldload to measure; empty builds it
	only    *regexp.Regexp // of measures; nil means all
	peers   []string       // other programs that read, as parsePeer takes them
	rounds  int            // that count
	most    int            // rounds at most, when some were disturbed
	wait    time.Duration  // for a quiet machine, in all
	region  int64          // bytes of the pieces of memory that kernels work on
	passes  int            // over region, so that a run takes long enough to be judged
	tensors int            // of the index
	held    int64          // bytes of memory that are touched before a run, at most
}

func standard() options {
	return options{rounds: 5, most: 10, region: 512 << 20, passes: 4, tensors: 100_000, held: 1 << 60}
}

func parse(log io.Writer, args []string) (options, error) {
	o := standard()
	fs := flag.NewFlagSet("limits", flag.ContinueOnError)
	fs.SetOutput(log)
	fs.Usage = func() {
		fmt.Fprintln(log, "usage: go run ./bench/limits [flags] CHECKPOINT")
		fs.PrintDefaults()
	}
	fs.StringVar(&o.json, "json", "", "`file` for every figure of every round")
	fs.IntVar(&o.rounds, "rounds", o.rounds, "rounds that count; one before them is dropped")
	fs.IntVar(&o.most, "max-rounds", o.most, "rounds at most, when other work disturbs some")
	fs.StringVar(&o.work, "work", "", "`folder` for what is written, on the checkpoint's disk; default: beside the checkpoint")
	fs.StringVar(&o.program, "coldload", "", "`program` to measure; default: built from this source")
	fs.StringVar(&o.other, "other", "", "another `checkpoint`, with more layers: its seconds a byte over this one's, cold")
	fs.DurationVar(&o.wait, "wait", 0, "wait so long, in all, for the machine to be quiet")
	fs.Func("only", "`pattern` of the names of measures; what needs others is left out of the table", func(s string) (err error) {
		o.only, err = regexp.Compile(s)
		return err
	})
	fs.Func("peer", "`name=command` of another program that reads, to compare with: then only reading is measured; may be repeated", func(s string) error {
		o.peers = append(o.peers, s)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() != 1 {
		return o, errors.New("exactly one CHECKPOINT is needed")
	}
	if o.rounds < 1 {
		return o, errors.New("--rounds must be 1 or more")
	}
	o.most = max(o.most, o.rounds)
	return o.at(fs.Arg(0))
}

// at sets the checkpoint.
func (o options) at(path string) (options, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return o, err
	}
	o.path = abs
	if o.work == "" {
		o.work = filepath.Dir(abs)
	}
	return o, nil
}
