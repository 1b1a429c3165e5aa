package fuse

import (
	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/stages"
)

// Stage is the pipeline stage that runs a Batch's Ops of this phase.
func Stage(opt execute.Options) *execute.Executor { return execute.Stage(stages.PhaseFuse, opt) }
