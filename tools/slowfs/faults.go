//go:build linux

package main

import (
	"context"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// faults are what a mount refuses.
type faults struct {
	offset int64 // of the byte that cannot be read; -1 when all can
	short  int   // most bytes of a read; 0 for no bound
	fail   int64 // which change fails, from 1 on; 0 for none
	dead   bool  // all after it fail too

	changes atomic.Int64 // so far
}

// openFlags make the kernel pass a short read on: from its page cache it would serve zeros, or what it reads for itself.
func (f *faults) openFlags() uint32 {
	if f.short > 0 {
		return fuse.FOPEN_DIRECT_IO
	}
	return 0
}

// read is what may be read of dst, which lies at off.
func (f *faults) read(dst []byte, off int64) ([]byte, syscall.Errno) {
	if f.offset >= off && f.offset < off+int64(len(dst)) {
		return nil, syscall.EIO
	}
	if f.short > 0 {
		dst = dst[:min(len(dst), f.short)]
	}
	return dst, 0
}

// change counts what changes the file system, and says what becomes of it.
func (f *faults) change() syscall.Errno {
	n := f.changes.Add(1)
	if f.fail > 0 && (n == f.fail || f.dead && n > f.fail) {
		return syscall.EIO
	}
	return 0
}

// Mkdir makes a folder.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.bad.change(); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

// Rmdir removes a folder.
func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	if errno := n.bad.change(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rmdir(ctx, name)
}

// Unlink removes a file.
func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.bad.change(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

// Rename renames.
func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.bad.change(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, to, newName, flags)
}

// Setattr truncates, or changes mode, owner or times.
func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := n.bad.change(); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Setattr(ctx, h, in, out)
}

// Fsync makes durable.
func (f *file) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if errno := f.bad.change(); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}

// Allocate reserves blocks.
func (f *file) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if errno := f.bad.change(); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Allocate(ctx, off, size, mode)
}
