package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// measureOverhead measures what telemetry costs and prints it.
func measureOverhead(ctx context.Context, out, log io.Writer, args []string) (err error) {
	opt, err := parseOverhead(log, args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "limits-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if opt.program == "" {
		opt.program = filepath.Join(dir, "coldload")
		if err := build(ctx, opt.program); err != nil {
			return err
		}
	}
	files, err := openShards(opt.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.close()) }()
	c, err := startCollector(ctx)
	if err != nil {
		return err
	}
	o := &overhead{with: opt.with}
	for i := range opt.pairs + 1 {
		on, off, err := opt.pair(ctx, files, c.url, i%2 == 0)
		if err != nil {
			return errors.Join(err, c.cmd.Process.Kill(), ignored(c.cmd.Wait()))
		}
		if i > 0 {
			o.on, o.off = append(o.on, on), append(o.off, off)
		}
		fmt.Fprintf(log, "pair %d of %d: on %.3f s, off %.3f s\n", i, opt.pairs, on, off)
	}
	received, err := c.stop()
	if err != nil {
		return err
	}
	o.spans = float64(received) / float64(opt.pairs+1)
	if o.spanCost, err = costOfSpan(ctx); err != nil {
		return err
	}
	o.tell(out)
	return nil
}

// ignored is for a process that was killed.
func ignored(error) error { return nil }

// pair is the processor seconds of a load with everything on and of one with everything off; which comes first changes from pair to pair.
func (o overheadOptions) pair(ctx context.Context, files *fileSet, url string, onFirst bool) (on, off float64, err error) {
	vars := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + url}
	if onFirst {
		on, err = o.load(ctx, files, vars, o.with...)
	}
	if err == nil {
		off, err = o.load(ctx, files, []string{})
	}
	if err == nil && !onFirst {
		on, err = o.load(ctx, files, vars, o.with...)
	}
	return on, off, err
}

// load is the processor time of a load from warm files, in a process that has these variables and no others.
func (o overheadOptions) load(ctx context.Context, files *fileSet, vars []string, with ...string) (float64, error) {
	if err := files.warm(ctx); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, o.program, append([]string{"load", o.path, "--to", "discard", "--quiet"}, with...)...)
	cmd.Env = vars
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Run(); err != nil || log.Len() > 0 {
		return 0, fmt.Errorf("%q: %w: %s", cmd.Args, err, log.String())
	}
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), nil
}

// collector is a process that takes spans and metrics and throws them away.
type collector struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
	url string
}

func startCollector(ctx context.Context) (*collector, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, receiveCommand)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &collector{cmd: cmd, in: in, out: bufio.NewReader(out)}
	line, err := c.out.ReadString('\n')
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), ignored(cmd.Wait()))
	}
	c.url = strings.TrimSpace(line)
	return c, nil
}

// received is what the collector says at its end.
type received struct{ Spans int64 }

// stop ends the collector; the result is how many spans it took.
func (c *collector) stop() (int64, error) {
	var r received
	err := errors.Join(c.in.Close(), json.NewDecoder(c.out).Decode(&r), c.cmd.Wait())
	return r.Spans, err
}

// receive is the collector: it prints its address, and when stdin ends how many spans it took.
func receive(in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "http://%s\n", listener.Addr())
	var spans atomic.Int64
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var m collectortrace.ExportTraceServiceRequest
		if err == nil && r.URL.Path == "/v1/traces" {
			err = proto.Unmarshal(body, &m)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, rs := range m.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				spans.Add(int64(len(ss.GetSpans())))
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf") // of an empty answer: everything was taken
	})}
	var g errgroup.Group
	g.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	_, err = io.Copy(io.Discard, in)
	if err = errors.Join(err, server.Close(), g.Wait()); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(received{spans.Load()})
}

// costOfSpan is the processor time that this process takes to make, encode and send one span like those of Batches.
func costOfSpan(ctx context.Context) (seconds float64, err error) {
	c, err := startCollector(ctx)
	if err != nil {
		return 0, err
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(c.url+"/v1/traces"))
	if err != nil {
		return 0, errors.Join(err, c.cmd.Process.Kill(), ignored(c.cmd.Wait()))
	}
	const n = 50_000
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(n), sdktrace.WithMaxExportBatchSize(2048)))
	tracer := provider.Tracer("github.com/coldload/coldload/bench/limits")
	before := processorTime()
	var link trace.SpanContext
	for i := range n {
		_, span := tracer.Start(ctx, "coldload.batch", trace.WithLinks(trace.Link{SpanContext: link}))
		span.SetAttributes(attribute.String("coldload.stage.name", "repack"))
		span.SetAttributes(
			attribute.Int("coldload.batch.seq", i), attribute.Int64("coldload.batch.bytes", 8<<20),
			attribute.String("coldload.tensor.first", "model.layers.10.mlp.experts.100.gate_proj.qweight"), attribute.Int("coldload.parts", 12),
			attribute.String("coldload.isa", "avx512vbmi"), attribute.String("coldload.source.method", "mmap"),
		)
		span.End()
		link = span.SpanContext()
	}
	err = provider.Shutdown(ctx)
	took := processorTime() - before
	received, stopErr := c.stop()
	if err = errors.Join(err, stopErr); err == nil && received != n {
		err = fmt.Errorf("%d of %d spans arrived", received, n)
	}
	return took.Seconds() / n, err
}

// processorTime is what this process has used, user and system.
func processorTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
