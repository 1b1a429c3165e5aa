package synth

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// checkSpace fails with ErrNoSpace when the file system of dir has less than need bytes free for this user.
func checkSpace(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("synth: free space of %s: %w", dir, err)
	}
	free := int64(st.Bavail) * st.Frsize
	if free < need {
		return fmt.Errorf("%w: %s needs %d bytes (%.1f GB) and has %d free; choose fewer layers or another folder",
			ErrNoSpace, dir, need, float64(need)/1e9, free)
	}
	return nil
}
