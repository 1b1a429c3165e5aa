package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// fetchonly DIR N MODE uniform|plan
func main() {
	ctx := context.Background()
	n, _ := strconv.Atoi(os.Args[2])
	mode, _ := file.ParseMode(os.Args[3])
	var lists [][]stages.Extent
	var shards []file.Shard
	paths, _ := filepath.Glob(os.Args[1] + "/*.safetensors")
	var total int64
	for _, p := range paths {
		f, _ := os.Open(p)
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		st, _ := f.Stat()
		shards = append(shards, file.Shard{Name: p, File: f, Size: st.Size(), ModTime: st.ModTime()})
		total += st.Size()
	}
	if os.Args[4] == "plan" {
		ck, err := coldload.Open(ctx, os.Args[1], coldload.Options{})
		if err != nil { panic(err) }
		p, _ := ck.Plan(coldload.Options{Layout: "raw"}, nil)
		for b := range p.Batches() { lists = append(lists, b.Ranges) }
		ck.Close()
	} else {
		for i, s := range shards {
			for off := int64(0); off < s.Size; off += 8 << 20 {
				lists = append(lists, []stages.Extent{{Shard: int32(i), Off: off, Len: min(8<<20, s.Size-off)}})
			}
		}
	}
	src, err := file.New(shards, file.Options{IO: mode})
	if err != nil { panic(err) }
	t := time.Now()
	var mu sync.Mutex
	next := 0
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(lists) { return }
				v, err := src.Fetch(ctx, lists[i])
				if err != nil { panic(err) }
				v.Release()
			}
		})
	}
	wg.Wait()
	d := time.Since(t).Seconds()
	fmt.Printf("load x n=%d %.3f s %.2f GB/s\n", n, d, float64(total)/d/1e9)
}
