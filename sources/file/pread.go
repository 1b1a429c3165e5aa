package file

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/coldload/coldload/stages"
)

// copyRanges reads what p lists to be copied into dst.
func (s *Source) copyRanges(ctx context.Context, v *views, ranges []stages.Extent, p *packing, dst []byte) error {
	for _, i := range p.copied {
		e := ranges[i]
		v.bytes[i] = dst[:e.Len:e.Len]
		dst = dst[alignUp(e.Len, p.align):]
		if err := s.shards[e.Shard].read(ctx, e, v.bytes[i]); err != nil {
			return err
		}
		v.used[copied] += e.Len
	}
	return nil
}

// read fills dst with e's bytes.
func (sh *shard) read(ctx context.Context, e stages.Extent, dst []byte) error {
	for done := int64(0); done < e.Len; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n := min(blockBytes, e.Len-done)
		began := sh.latency.begin()
		got, err := sh.File.ReadAt(dst[done:done+n], e.Off+done)
		done += int64(got)
		if int64(got) < n {
			return sh.unread(stages.Extent{Shard: e.Shard, Off: e.Off + done, Len: e.Len - done}, n, int64(got), err)
		}
		sh.latency.end(ctx, copied, began)
	}
	return nil
}

// unread explains a read of n bytes that returned got; missing is what was not read.
func (sh *shard) unread(missing stages.Extent, n, got int64, cause error) error {
	if errors.Is(cause, io.EOF) {
		return sh.lost(missing, &stages.DataError{
			Problem:  fmt.Sprintf("the file was truncated: a read at offset %d came back short", missing.Off-got),
			Expected: fmt.Sprintf("%d bytes", n),
			Found:    fmt.Sprintf("%d bytes", got),
			Advice:   "leave the checkpoint alone while it is read, and run again",
			Err:      io.ErrUnexpectedEOF,
		})
	}
	return sh.lost(missing, &stages.DataError{
		Problem: fmt.Sprintf("bytes %d to %d cannot be read", missing.Off, missing.End()),
		Err:     cause,
	})
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
