//go:build linux

// Command slowfs mounts a folder once more, at a place where reading and writing are slow, as on a network file system that is far away or a
// disk that has little to give, or fail, as on a disk that is worn out. It serves tests that want a load to be held up by what it is said to
// be held up by, and those of what becomes of a load when the system says no.
//
//	slowfs [-latency 20ms] [-read 50e6] [-write 50e6] [-bad OFFSET] [-short BYTES] [-fail N [-dead]] FOLDER MOUNTPOINT
//
// It needs the rights to mount, says "mounted" on stdout when it is there, and unmounts on SIGTERM and SIGINT; then it says how many changes
// there were, which is what -fail counts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "slowfs:", err)
		os.Exit(1)
	}
}

func run() error {
	var slow slowness
	flag.DurationVar(&slow.latency, "latency", 0, "how long every read waits, however many there are at once")
	flag.Float64Var(&slow.reads.rate, "read", 0, "bytes per second that all reads have together; 0 sets no bound")
	flag.Float64Var(&slow.writes.rate, "write", 0, "bytes per second that all writes have together; 0 sets no bound")
	var bad faults
	flag.Int64Var(&bad.offset, "bad", -1, "a byte that cannot be read, in every file that has so many: EIO")
	flag.IntVar(&bad.short, "short", 0, "most bytes that a read returns; files then cannot be mapped. 0 sets no bound")
	flag.Int64Var(&bad.fail, "fail", 0, "the change that fails, counted from 1: EIO. 0 lets all happen")
	flag.BoolVar(&bad.dead, "dead", false, "all changes after it fail too")
	flag.Parse()
	if flag.NArg() != 2 {
		return errors.New("needs FOLDER and MOUNTPOINT")
	}
	root := &fs.LoopbackRoot{Path: flag.Arg(0), NewNode: func(data *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &node{LoopbackNode: fs.LoopbackNode{RootData: data}, slow: &slow, bad: &bad}
	}}
	root.RootNode = root.NewNode(root, nil, "", nil)
	server, err := fs.Mount(flag.Arg(1), root.RootNode, &fs.Options{MountOptions: fuse.MountOptions{
		FsName: "slowfs", Name: "slowfs", DirectMountStrict: true, MaxWrite: 1 << 20,
	}})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("mounted")
	<-stop
	fmt.Println(bad.changes.Load(), "changes")
	return server.Unmount()
}

// slowness is what a mount does to those who read and write.
type slowness struct {
	latency       time.Duration
	reads, writes pace
}

// pace hands out bytes at a rate, to all together.
type pace struct {
	rate float64 // bytes per second; 0 for no bound

	mu   sync.Mutex
	free time.Time // when the next bytes may go
}

// wait returns when n bytes may go.
func (p *pace) wait(n int) {
	if p.rate <= 0 {
		return
	}
	p.mu.Lock()
	if now := time.Now(); p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	until := p.free
	p.mu.Unlock()
	time.Sleep(time.Until(until))
}

// node is a file or folder of the mount.
type node struct {
	fs.LoopbackNode

	slow *slowness
	bad  *faults
}

var (
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeCreater   = (*node)(nil)
	_ fs.NodeMkdirer   = (*node)(nil)
	_ fs.NodeRmdirer   = (*node)(nil)
	_ fs.NodeUnlinker  = (*node)(nil)
	_ fs.NodeRenamer   = (*node)(nil)
	_ fs.NodeSetattrer = (*node)(nil)
)

// Open opens a file that is slow.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags)
	return n.slowed(h), fuseFlags | n.bad.openFlags(), errno
}

// Create makes a file that is slow.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.bad.change(); errno != 0 {
		return nil, nil, 0, errno
	}
	inode, h, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, n.slowed(h), fuseFlags | n.bad.openFlags(), errno
}

func (n *node) slowed(h fs.FileHandle) fs.FileHandle {
	if f, ok := h.(*fs.LoopbackFile); ok {
		return &file{LoopbackFile: f, slow: n.slow, bad: n.bad}
	}
	return h
}

// file is an open file of the mount.
type file struct {
	*fs.LoopbackFile

	slow *slowness
	bad  *faults
}

// PassthroughFd has none to give: the kernel would read and write by itself, at full speed.
func (*file) PassthroughFd() (int, bool) { return 0, false }

// Read reads slowly.
func (f *file) Read(ctx context.Context, dst []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	dst, errno := f.bad.read(dst, off)
	if errno != 0 {
		return nil, errno
	}
	time.Sleep(f.slow.latency)
	f.slow.reads.wait(len(dst))
	return f.LoopbackFile.Read(ctx, dst, off)
}

// Write writes slowly.
func (f *file) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.bad.change(); errno != 0 {
		return 0, errno
	}
	f.slow.writes.wait(len(data))
	return f.LoopbackFile.Write(ctx, data, off)
}

// Writev writes slowly what lies in several pieces.
func (f *file) Writev(ctx context.Context, data [][]byte, off int64) (uint32, syscall.Errno) {
	if errno := f.bad.change(); errno != 0 {
		return 0, errno
	}
	for _, b := range data {
		f.slow.writes.wait(len(b))
	}
	return f.LoopbackFile.Writev(ctx, data, off)
}
