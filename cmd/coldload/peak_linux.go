package main

import (
	"bytes"
	"os"
	"strconv"
)

// meter reads how much anonymous memory the process has: RssAnon of /proc/self/status, which /proc/self/statm gives as the difference of
// two numbers and in a tenth of the time.
type meter struct {
	file *os.File // nil when there is no /proc
	page int64
	buf  [128]byte
}

func openMeter() *meter {
	f, err := os.Open("/proc/self/statm")
	if err != nil {
		return &meter{}
	}
	return &meter{file: f, page: int64(os.Getpagesize())}
}

// anonymous is in bytes; 0 when it cannot be known.
func (m *meter) anonymous() int64 {
	if m.file == nil {
		return 0
	}
	n, _ := m.file.ReadAt(m.buf[:], 0) // fewer bytes than the buffer holds are the rule, and io.EOF with them
	fields := bytes.Fields(m.buf[:n])
	if len(fields) < 3 {
		return 0
	}
	resident, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	shared, err := strconv.ParseInt(string(fields[2]), 10, 64)
	if err != nil {
		return 0
	}
	return (resident - shared) * m.page
}

func (m *meter) close() {
	if m.file != nil {
		_ = m.file.Close() // opened for reading
	}
}
