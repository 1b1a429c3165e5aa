package coldload

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"strings"
)

// ParseDigests reads a list of SHA-256 digests as sha256sum writes it, for Options.Digests: a line for each file, the digest in hex, two blanks
// (or a blank and a star) and the name. "./" before a name is dropped. Anything else, and two digests of one name, is an error with the number of
// its line.
func ParseDigests(r io.Reader) (map[string]string, error) {
	digests := map[string]string{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" {
			continue
		}
		digest, name, ok := strings.Cut(line, " ")
		if raw, err := hex.DecodeString(digest); !ok || err != nil || len(raw) != sha256.Size || len(name) < 2 || name[0] != ' ' && name[0] != '*' {
			return nil, fmt.Errorf("%w: digests: line %d is not of sha256sum: %.80q", ErrOptions, n, line)
		}
		name, digest = path.Clean(name[1:]), strings.ToLower(digest)
		if other, twice := digests[name]; twice && other != digest {
			return nil, fmt.Errorf("%w: digests: line %d: %q has another digest above", ErrOptions, n, name)
		}
		digests[name] = digest
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("digests: %w", err)
	}
	if len(digests) == 0 {
		return nil, fmt.Errorf("%w: digests: there are none", ErrOptions)
	}
	return digests, nil
}
