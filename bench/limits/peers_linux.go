package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// A peer is another program that reads a checkpoint, whose path is its last argument. It says a line when it is ready, waits for one, and
// says its seconds as JSON: so its start is outside the clock, and within ours.
type peer struct {
	name string
	argv []string
}

// parsePeer takes "name=program and arguments".
func parsePeer(text string) (peer, error) {
	name, command, _ := strings.Cut(text, "=")
	p := peer{name, strings.Fields(command)}
	if name == "" || len(p.argv) == 0 {
		return p, fmt.Errorf("--peer %q is not name=command", text)
	}
	return p, nil
}

// started is a peer that is ready.
type started struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a peer and waits until it is ready.
func (p peer) start(ctx context.Context, path string) (*started, error) {
	s := &started{cmd: exec.CommandContext(ctx, p.argv[0], append(p.argv[1:len(p.argv):len(p.argv)], path)...)}
	in, err1 := s.cmd.StdinPipe()
	out, err2 := s.cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	s.in, s.out = in, bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := s.out.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not get ready: %q: %w", p.name, line, err), s.cmd.Wait())
	}
	return s, nil
}

// read lets the peer read, and waits for its end.
func (s *started) read() (r reading, err error) {
	_, err1 := io.WriteString(s.in, "go\n")
	line, err2 := lastLine(s.out)
	if err := errors.Join(err1, err2, s.cmd.Wait()); err != nil {
		return r, err
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("%w in %q", err, line)
	}
	return r, nil
}

// lastLine skips what a library may say before.
func lastLine(r *bufio.Reader) ([]byte, error) {
	var last []byte
	scan := bufio.NewScanner(r)
	for scan.Scan() {
		last = append(last[:0], scan.Bytes()...)
	}
	return last, scan.Err()
}

// measures are the peer cold and warm.
func (p peer) measures(b *bench) []measure {
	both := make([]measure, 0, 2)
	for _, state := range []struct {
		name string
		make func(context.Context) error
	}{{"cold", b.in.evict}, {"warm", b.in.warm}} {
		var s *started
		both = append(both, measure{
			name: p.name + ", " + state.name, how: process, bytes: b.in.size, need: b.in.size, before: state.make,
			early: func(ctx context.Context) (err error) { s, err = p.start(ctx, b.opt.path); return err },
			run:   inProcess(func() (reading, error) { return s.read() }),
		})
	}
	return both
}

// lines compare us with the peer: its time over ours.
func (p peer) lines() []line {
	return []line{
		{Name: p.name + ", cold / cold load --to host", Ours: nHostCold, Limits: []string{p.name + ", cold"}, AtLeast: 1},
		{Name: p.name + ", warm / warm load --to host", Ours: nHostWarm, Limits: []string{p.name + ", warm"}, AtLeast: 2},
	}
}
