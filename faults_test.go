package coldload_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// A row of the fault tables is a crafted checkpoint and what must become of it. build fills the Builder; what it returns, when it is not
// empty, is the path to load in place of the folder that Write makes.
type row struct {
	name  string
	build func(b *ckpt.Builder) string
	opt   coldload.Options
	code  stages.Code // refused with a Fault of this code...
	says  []string    // ...whose line has all of these; or the parts of a *stages.DataError's text
	check func(got loaded)
}

// loaded is a load that went well.
type loaded struct {
	t   *testing.T
	mem *host.Memory
	res *coldload.Result
}

// only makes a build of statements alone.
func only(f func(b *ckpt.Builder)) func(b *ckpt.Builder) string {
	return func(b *ckpt.Builder) string {
		f(b)
		return ""
	}
}

// tryLoad loads a row's checkpoint. A load that blocks fails the test.
func tryLoad(t *testing.T, r row) (*host.Sink, *coldload.Result, error) {
	t.Helper()
	b := ckpt.New(t)
	path := r.build(b)
	if path == "" {
		path = b.Write()
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the load does not end"))
	defer cancel()
	sink := host.New(host.Options{})
	res, err := coldload.Load(ctx, path, sink, r.opt)
	if res == nil {
		t.Fatal("no Result")
	}
	return sink, res, err
}

// refuses checks the rows that must be refused before a byte moves.
func refuses(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			sink, res, err := tryLoad(t, r)
			refused, ok := errors.AsType[*stages.RefusedError](err)
			if !ok {
				t.Fatalf("error %v, want a refusal", err)
			}
			if sink.Memory() != nil {
				t.Error("there is a result")
			}
			if at := res.Phases[stages.PhaseFetch]; at.BytesIn != 0 || at.Items != 0 {
				t.Errorf("%d ranges of %d bytes were fetched", at.Items, at.BytesIn)
			}
			if !hasFault(refused, r.code, r.says) {
				t.Errorf("%v\nhas no fault %q with all of %q", refused, r.code, r.says)
			}
		})
	}
}

// hasFault reports whether one of the Faults has the code and says it all.
func hasFault(e *stages.RefusedError, code stages.Code, says []string) bool {
	for _, f := range e.Faults {
		if f.Code == code && containsAll(f.String(), says) {
			return true
		}
	}
	return false
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// breaks checks the rows that fail when the bytes are seen.
func breaks(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			sink, _, err := tryLoad(t, r)
			data, ok := errors.AsType[*stages.DataError](err)
			if !ok {
				t.Fatalf("error %v, want a DataError", err)
			}
			if _, ok := errors.AsType[*stages.RefusedError](err); ok {
				t.Errorf("%v is a refusal too", err)
			}
			if data.File == "" {
				t.Errorf("%v names no file", err)
			}
			if !containsAll(err.Error(), r.says) {
				t.Errorf("%v\nhas not all of %q", err, r.says)
			}
			if sink.Memory() != nil {
				t.Error("there is a result")
			}
		})
	}
}

// loads checks the rows that are right.
func loads(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			sink, res, err := tryLoad(t, r)
			if err != nil {
				t.Fatal(err)
			}
			mem := memoryOf(t, sink)
			if r.check != nil {
				r.check(loaded{t, mem, res})
			}
		})
	}
}

// same checks one Output.
func (l loaded) same(name string, d stages.DType, shape []int64, want []byte) {
	l.t.Helper()
	got, ok := l.mem.Lookup(name)
	if !ok {
		l.t.Errorf("%s: no such output", name)
		return
	}
	if got.DType != d || !equal(got.Shape, shape) {
		l.t.Errorf("%s: %s %v, want %s %v", name, got.DType, got.Shape, d, shape)
	}
	if string(got.Bytes) != string(want) {
		l.t.Errorf("%s: other bytes than the reference", name)
	}
}

func equal(a, b []int64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// names checks which Outputs there are.
func (l loaded) names(want ...string) {
	l.t.Helper()
	if n := len(l.mem.Outputs()); n != len(want) {
		l.t.Errorf("%d outputs, want %d", n, len(want))
	}
	for _, name := range want {
		if _, ok := l.mem.Lookup(name); !ok {
			l.t.Errorf("%s: no such output", name)
		}
	}
}

// notes checks that one of the texts has all of the parts.
func notes(t *testing.T, texts []string, parts ...string) {
	t.Helper()
	for _, n := range texts {
		if containsAll(n, parts) {
			return
		}
	}
	t.Errorf("%q: none has all of %q", texts, parts)
}
