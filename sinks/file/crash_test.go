package file

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/stages"
)

var errCrash = errors.New("the power is off")

// crashing makes every change to the disk fail from the n-th on, as if the process was killed before it: nothing is cleaned up.
func crashing(s *Sink, n int) (ops *[]string) {
	var mu sync.Mutex
	ops = new([]string)
	s.disk.before = func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		*ops = append(*ops, op+" "+filepath.Base(path))
		if len(*ops) > n {
			return errCrash
		}
		return nil
	}
	return ops
}

// failing makes the n-th change to the disk fail, and lets everything after it happen.
func failing(s *Sink, n int) (ops *[]string) {
	var mu sync.Mutex
	ops = new([]string)
	s.disk.before = func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		*ops = append(*ops, op+" "+filepath.Base(path))
		if len(*ops) == n+1 {
			return syscall.EIO
		}
		return nil
	}
	return ops
}

// often makes the sink flush after few bytes, so that the journal grows in a small load.
func often(s *Sink) *Sink {
	s.every = 3000
	return s
}

// scribble destroys every byte of OUT.partial that the journal does not name, as a lost page cache might, and returns how many bytes the
// journal names.
func scribble(tb testing.TB, dir string, outputs []stages.Output) (named int64) {
	tb.Helper()
	s := New(options(dir))
	s.outputs = outputs
	s.shards = assign(outputs, s.opt.ShardSize)
	var err error
	s.offsets, err = layOut(s.shards, outputs, s.opt.Layout)
	if err != nil {
		tb.Fatal(err)
	}
	keep := make(map[stages.Slab]bool)
	if f, err := os.Open(dir + ".partial.journal"); err == nil {
		j := &journal{f: f}
		_, _, err := j.read(func(r record) {
			for _, run := range r.Slabs {
				for i := range len(run.Sums) / 64 {
					keep[outputs[run.Output].Slab(run.Output, run.First+i)] = true
				}
			}
		})
		if err := errors.Join(err, f.Close()); err != nil {
			tb.Fatal(err)
		}
	}
	for _, slab := range slabsOf(outputs) {
		if keep[slab] {
			named += slab.Len
			continue
		}
		sh := s.shardOf(slab.Output)
		path := filepath.Join(dir+".partial", sh.name)
		if st, err := os.Stat(path); err != nil || st.Size() != sh.size {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			tb.Fatal(err)
		}
		_, err = f.WriteAt(bytes.Repeat([]byte{0xee}, int(slab.Len)), s.offsets[slab.Output]+slab.Off)
		if err := errors.Join(err, f.Close()); err != nil {
			tb.Fatal(err)
		}
	}
	return named
}

// walk runs load with each fault in turn until none is met, or with every step-th, and calls after with the operation that it was.
func walk(t *testing.T, step int, load func(s *Sink) error, dir func() string, opt func(dir string) Options, inject func(*Sink, int) *[]string,
	after func(t *testing.T, dir, op string, err error),
) {
	t.Helper()
	if testing.Short() {
		step *= 5
	}
	for n := 0; ; n += step {
		d := dir()
		s := often(New(opt(d)))
		ops := inject(s, n)
		err := load(s)
		if len(*ops) <= n {
			if err != nil {
				t.Fatalf("without a fault: %v", err)
			}
			return
		}
		op := fmt.Sprintf("operation %d, %s", n, (*ops)[n])
		after(t, d, op, err)
		if t.Failed() {
			t.Fatalf("after %s (%v)", op, err)
		}
	}
}

// TestCrashAnywhere stops the disk before each operation. The next run gives the same bytes as one that nothing disturbed, and until then
// nothing looks finished that is not.
func TestCrashAnywhere(t *testing.T) {
	crashAnywhere(t, work(), 21800, 1)
}

// TestCrashAnywhereBesideThePageCache is the same with Slabs that are written directly, with fragments at their ends.
func TestCrashAnywhereBesideThePageCache(t *testing.T) {
	canDirect(t)
	outputs := past()
	crashAnywhere(t, outputs, outputs[0].Size+outputs[1].Size+outputs[2].Size, 2)
}

// past is a small load of which most is written past the page cache.
func past() []stages.Output {
	return []stages.Output{raw("norm", 100, 100), raw("blocks", 256<<10, 128<<10), raw("lines", 4*(80<<10+64), 80<<10+64)}
}

// crashAnywhere walks with every step-th operation; the journal names at least so many bytes at the end.
func crashAnywhere(t *testing.T, outputs []stages.Output, named int64, step int) {
	t.Helper()
	want := undisturbed(t, outputs)
	old := map[string]string{"config.json": "old", "deep/er": "x"}
	for _, replace := range []bool{false, true} {
		for _, otherKey := range []bool{false, true} {
			t.Run(fmt.Sprintf("replacing %v, then another key %v", replace, otherKey), func(t *testing.T) {
				t.Parallel()
				dir := func() string {
					d := filepath.Join(t.TempDir(), "out")
					if replace {
						plant(t, d, old)
					}
					return d
				}
				with := func(d string) Options {
					opt := options(d)
					opt.Overwrite = replace
					return opt
				}
				most := int64(0)
				load := func(s *Sink) error { return pack(t.Context(), s, outputs) }
				step := step
				if otherKey {
					step *= 3
				}
				walk(t, step, load, dir, with, crashing, func(t *testing.T, d, op string, err error) {
					t.Helper()
					if err == nil && !strings.Contains(op, "remove") {
						t.Error("no error")
					}
					most = max(most, scribble(t, d, outputs))
					sound(t, d, replace, want, old)
					opt := with(d)
					if otherKey {
						opt.Key = []byte(`{"bits":8}`)
						first := New(opt)
						if err := pack(t.Context(), first, outputs); err != nil && (replace || !errors.Is(err, ErrTargetExists)) {
							t.Error("with another key:", err)
						}
						opt = options(d)
						opt.Overwrite = true
					}
					s := often(New(opt))
					if err := pack(t.Context(), s, outputs); err != nil && !errors.Is(err, ErrAlreadyDone) {
						t.Error(err)
					}
					if err := same(ckpt.Tree(t, d), want); err != nil {
						t.Error(err)
					}
					alone(t, d)
				})
				if most != named {
					t.Errorf("the journal never named more than %d bytes", most)
				}
			})
		}
	}
}

// sound says that at least one of old and new is there, under a name that the next run knows.
func sound(t *testing.T, dir string, replace bool, want, old map[string]string) {
	t.Helper()
	if _, err := os.Stat(dir); err == nil {
		got := ckpt.Tree(t, dir)
		if same(got, want) != nil && (!replace || same(got, old) != nil) {
			t.Error("the target is there and is neither old nor new")
		}
		return
	}
	if replace && same(ckpt.Tree(t, dir+".coldload-old"), old) != nil {
		t.Error("what was to be replaced is gone")
	}
}

// plant writes files.
func plant(tb testing.TB, dir string, files map[string]string) {
	tb.Helper()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestFailAnywhere lets each operation fail once. The error is reported, Close leaves nothing that looks finished, and no more than what
// the journal names.
func TestFailAnywhere(t *testing.T) {
	failAnywhere(t, work())
}

// TestFailAnywhereBesideThePageCache is the same with Slabs that are written directly.
func TestFailAnywhereBesideThePageCache(t *testing.T) {
	canDirect(t)
	failAnywhere(t, past())
}

func failAnywhere(t *testing.T, outputs []stages.Output) {
	t.Helper()
	want := undisturbed(t, outputs)
	dir := func() string { return filepath.Join(t.TempDir(), "out") }
	load := func(s *Sink) error { return pack(t.Context(), s, outputs) }
	walk(t, 1, load, dir, options, failing, func(t *testing.T, d, op string, err error) {
		t.Helper()
		published := strings.HasSuffix(op, "syncdir "+filepath.Base(filepath.Dir(d))) || strings.Contains(op, "remove")
		if err == nil && !published {
			t.Error("no error")
		}
		if _, e := os.Stat(d); e == nil {
			if e := same(ckpt.Tree(t, d), want); e != nil {
				t.Error("the target is there:", e)
			}
		} else if _, e := os.Stat(d + ".partial"); e == nil {
			if _, e := os.Stat(filepath.Join(d+".partial", packed.ManifestName)); e == nil {
				t.Error("a manifest is left")
			}
			if scribble(t, d, outputs) == 0 {
				t.Error("a folder is left of which nothing can be used")
			}
		} else {
			if _, e := os.Stat(d + ".partial.journal"); e == nil && !strings.Contains(op, "remove") {
				t.Error("a journal is left alone")
			}
		}
		if err := pack(t.Context(), often(New(options(d))), outputs); err != nil && !errors.Is(err, ErrAlreadyDone) {
			t.Error("the next run:", err)
		}
		if err := same(ckpt.Tree(t, d), want); err != nil {
			t.Error(err)
		}
		alone(t, d)
	})
}

// partial makes OUT.partial of a load that stopped after half of the Slabs, and closes the sink.
func partial(tb testing.TB, dir string, outputs []stages.Output) {
	tb.Helper()
	s := often(New(options(dir)))
	half(tb, s, outputs)
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
}

// resume completes a load, and returns how many bytes were there.
func resume(tb testing.TB, opt Options, outputs []stages.Output, want map[string]string) int64 {
	tb.Helper()
	s := New(opt)
	if err := pack(tb.Context(), s, outputs); err != nil {
		tb.Fatal(err)
	}
	if err := same(ckpt.Tree(tb, opt.Dir), want); err != nil {
		tb.Fatal(err)
	}
	alone(tb, opt.Dir)
	return s.Resumed()
}

func TestCloseKeepsWhatIsWritten(t *testing.T) {
	outputs := work()
	want := undisturbed(t, outputs)
	dir := filepath.Join(t.TempDir(), "out")
	partial(t, dir, outputs)
	var written int64
	slabs := slabsOf(outputs)
	for _, slab := range slabs[:len(slabs)/2] {
		written += slab.Len
	}
	s := New(options(dir))
	if err := s.Begin(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
	if s.Resumed() != written || !s.Done(outputs[0]) || s.Done(outputs[6]) || s.Done(raw("unknown", 1, 1)) {
		t.Errorf("%d bytes resumed, %d were written", s.Resumed(), written)
	}
	// A Slab that is done is accepted when it has the same bytes, and refused when not.
	slab := outputs[0].Slab(0, 0)
	for _, other := range []bool{false, true} {
		b, err := s.Reserve(t.Context(), slab)
		if err != nil {
			t.Fatal(err)
		}
		pattern(slab, b)
		if other {
			b[7] ^= 1
		}
		if err := s.Write(t.Context(), slab, b); (err != nil) != other {
			t.Errorf("other bytes %v: %v", other, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := resume(t, options(dir), outputs, want); got != written {
		t.Errorf("%d bytes resumed", got)
	}
}

func TestResumeWithPlainDigests(t *testing.T) {
	outputs := work()
	dir := filepath.Join(t.TempDir(), "out")
	opt := options(dir)
	opt.PlainDigests = true
	s := often(New(opt))
	if err := s.Begin(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
	for _, slab := range slabsOf(outputs)[:20] {
		if err := pass(t.Context(), s, slab); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := pack(t.Context(), New(opt), outputs); err != nil {
		t.Fatal(err)
	}
	m, err := packed.ReadFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := readAll(dir)
	for _, o := range m.Outputs {
		if o.SHA256 != packed.SHA256.Sum(all[o.Name]) {
			t.Errorf("%s: sha256 %s", o.Name, o.SHA256)
		}
	}
}

// TestTornJournal cuts the journal at every length, and flips a bit in every byte.
func TestTornJournal(t *testing.T) {
	outputs := work()
	want := undisturbed(t, outputs)
	base := filepath.Join(t.TempDir(), "out")
	partial(t, base, outputs)
	text, err := os.ReadFile(base + ".partial.journal")
	if err != nil {
		t.Fatal(err)
	}
	files := ckpt.Tree(t, base+".partial")
	head := bytes.IndexByte(text, '\n') + 1
	check := func(journal []byte, what string) {
		dir := filepath.Join(t.TempDir(), "out")
		plant(t, dir+".partial", files)
		plant(t, filepath.Dir(dir), map[string]string{"out.partial.journal": string(journal)})
		s := New(options(dir))
		if err := s.Begin(t.Context(), outputs); err != nil {
			if !errors.Is(err, ErrTargetExists) || bytes.HasPrefix(journal, text[:head]) {
				t.Errorf("%s: %v", what, err)
			}
			_ = s.Close() // the error is known
			return
		}
		for _, slab := range slabsOf(outputs) {
			if s.DoneSlab(slab) {
				if got := make([]byte, slab.Len); true {
					pattern(slab, got)
					if s.digests.Sum(slab) != packed.BLAKE3.Sum(got) {
						t.Errorf("%s: a hash that is wrong is trusted", what)
					}
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for n := 0; n < len(text); n += 1 + n/40 {
		check(text[:n], fmt.Sprintf("cut at %d", n))
		flipped := slices.Clone(text)
		flipped[n] ^= 1
		check(flipped, fmt.Sprintf("flipped at %d", n))
	}
	// Something is always left of it, and goes on.
	plant(t, filepath.Dir(base), map[string]string{"out.partial.journal": string(text[:len(text)-3]) + "\x00garbage"})
	if got := resume(t, options(base), outputs, want); got == 0 {
		t.Error("nothing resumed")
	}
}

// TestLostShards: what a shard held is not trusted when its file is not as it was left, not even after one more crash.
func TestLostShards(t *testing.T) {
	outputs := work()
	want := undisturbed(t, outputs)
	first := "model-00001-of-00004.safetensors"
	for name, lose := range map[string]func(path string) error{
		"removed":       os.Remove,
		"cut":           func(path string) error { return os.Truncate(path, 1000) },
		"other header":  func(path string) error { return flip(path, 20) },
		"a folder":      func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) },
		"whole partial": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "out")
			partial(t, dir, outputs)
			if err := lose(filepath.Join(dir+".partial", first)); err != nil {
				t.Fatal(err)
			}
			s := New(options(dir))
			if err := s.Begin(t.Context(), outputs); err != nil {
				t.Fatal(err)
			}
			if s.Done(outputs[0]) {
				t.Error("its outputs are done")
			}
			s.disk.before = func(string, string) error { return errCrash }
			_ = s.Close() // crashes
			scribble0(t, filepath.Join(dir+".partial", first))
			resume(t, options(dir), outputs, want)
		})
	}
}

// scribble0 destroys the data of the first shard.
func scribble0(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{0xdd}, 5800), dataAlign)
	if err := errors.Join(err, f.Close()); err != nil {
		tb.Fatal(err)
	}
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	b[0] ^= 1
	_, errW := f.WriteAt(b[:], at)
	return errors.Join(err, errW, f.Close())
}

// heavy is a load that takes a while.
func heavy() []stages.Output {
	var outputs []stages.Output
	for i := range 12 {
		size := 12<<20 + int64(i%3)*64 // at blocks of the disk, at cache lines, and, below, at neither
		if i%4 == 3 {
			size++
		}
		outputs = append(outputs, raw(fmt.Sprintf("layers.%d.qweight", i), size, 1<<20), raw(fmt.Sprintf("layers.%d.scales", i), 4000, 4000))
	}
	return outputs
}

func heavyOptions(dir string) Options {
	opt := options(dir)
	opt.ShardSize = 60 << 20
	return opt
}

// TestChild is the process that the tests below start and kill: it packs into the folder that its arguments name, and says how far it is.
func TestChild(t *testing.T) {
	if flag.NArg() != 1 {
		t.Skip("only for the tests that start it")
	}
	say := func(what any) {
		if _, err := fmt.Fprintln(os.Stdout, what); err != nil {
			t.Fatal(err)
		}
	}
	s, outputs := New(heavyOptions(flag.Arg(0))), heavy()
	if err := s.Begin(t.Context(), outputs); err != nil {
		if errors.Is(err, ErrAlreadyDone) {
			return
		}
		t.Fatal(err)
	}
	say("begun")
	n := int64(0)
	for some := range slices.Chunk(slabsOf(outputs), 4) {
		if err := pass(t.Context(), s, some...); err != nil {
			t.Fatal(err)
		}
		for _, slab := range some {
			n += slab.Len
		}
		say(100 * n / s.total())
	}
	if err := errors.Join(s.Commit(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// run starts a child and kills it when a line says so.
func run(tb testing.TB, dir string, kill func(line string) bool) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), os.Args[0], "-test.run=^TestChild$", dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "FAIL") {
			tb.Error("the child has failed")
		}
		if kill(lines.Text()) {
			_ = cmd.Process.Kill() // it may have ended
		}
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // it was killed, or all is well
}

// TestKilled kills packs with SIGKILL at random moments, again and again, and then lets one through.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	outputs := heavy()
	ref := filepath.Join(t.TempDir(), "ref")
	if err := pack(t.Context(), New(heavyOptions(ref)), outputs); err != nil {
		t.Fatal(err)
	}
	want := ckpt.Tree(t, ref)
	rng := rand.New(rand.NewPCG(3, uint64(time.Now().UnixNano())))
	for range 4 {
		dir := filepath.Join(t.TempDir(), "out")
		for range 5 {
			after := rng.IntN(45)
			wait := time.Duration(rng.IntN(4000)) * time.Microsecond
			n := 0
			run(t, dir, func(string) bool {
				if n++; n == after {
					time.Sleep(wait)
				}
				return n == after
			})
			if _, err := os.Stat(dir); err == nil {
				if err := same(ckpt.Tree(t, dir), want); err != nil {
					t.Fatalf("the target looks finished: %v", err)
				}
			}
		}
		if err := pack(t.Context(), New(heavyOptions(dir)), outputs); err != nil && !errors.Is(err, ErrAlreadyDone) {
			t.Fatal(err)
		}
		if err := same(ckpt.Tree(t, dir), want); err != nil {
			t.Fatal(err)
		}
		alone(t, dir)
	}
}

// TestKilledLate: a run that is killed at 70 % leaves at least 55 % for the next one.
func TestKilledLate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	run(t, dir, func(line string) bool { return line == "70" || line == "71" })
	s := New(heavyOptions(dir))
	if err := s.Begin(t.Context(), heavy()); err != nil {
		t.Fatal(err)
	}
	share := float64(s.Resumed()) / float64(s.total())
	t.Logf("%.0f %% need not be read again", 100*share)
	if share < 0.55 {
		t.Errorf("only %.0f %% is left", 100*share)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
