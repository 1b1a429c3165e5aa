package discover

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/coldload/coldload/stages"
)

// HubCacheFromEnv is the folder of the Hugging Face cache, by the rules of huggingface_hub: $HF_HUB_CACHE, $HUGGINGFACE_HUB_CACHE (its
// old name), $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub. It is empty when none of them and no home is known.
func HubCacheFromEnv(getenv func(string) string, home string) string {
	for _, v := range []struct{ name, below string }{
		{"HF_HUB_CACHE", ""},
		{"HUGGINGFACE_HUB_CACHE", ""},
		{"HF_HOME", "hub"},
		{"XDG_CACHE_HOME", "huggingface/hub"},
	} {
		if dir := getenv(v.name); dir != "" {
			return filepath.Join(expandHome(dir, home), v.below)
		}
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".cache", "huggingface", "hub")
}

func expandHome(dir, home string) string {
	if rest, ok := strings.CutPrefix(dir, "~"); ok && home != "" && (rest == "" || rest[0] == '/') {
		return filepath.Join(home, rest)
	}
	return dir
}

const (
	hubPrefix       = "models--"
	defaultRevision = "main"
	minPrefix       = 7  // of a commit that is given in short
	maxCommit       = 64 // a SHA-256; today's commits have 40 digits
	maxRepoName     = 96 // huggingface_hub's limit
)

// hubID is a parsed org/name[@revision].
type hubID struct{ repo, revision string }

// parseHubID checks every character: an id must never become a path outside the cache, whatever the rest of the code does with it.
func parseHubID(s string) (hubID, error) {
	repo, revision, given := strings.Cut(s, "@")
	if !given {
		revision = defaultRevision
	}
	if len(repo) > maxRepoName {
		return hubID{}, fmt.Errorf("it is longer than %d characters", maxRepoName)
	}
	parts := strings.Split(repo, "/")
	if len(parts) > 2 {
		return hubID{}, errors.New("it has more than two parts")
	}
	for _, part := range parts {
		if err := checkRepoPart(part); err != nil {
			return hubID{}, err
		}
	}
	if err := checkRevision(revision); err != nil {
		return hubID{}, err
	}
	return hubID{repo: repo, revision: revision}, nil
}

// checkRepoPart follows huggingface_hub's rule for names.
func checkRepoPart(s string) error {
	switch {
	case s == "":
		return errors.New("a part of it is empty")
	case strings.Trim(s, "-.") != s:
		return fmt.Errorf("%q begins or ends with a dash or a dot", s)
	case strings.Contains(s, "--"), strings.Contains(s, ".."):
		return fmt.Errorf("%q contains two dashes or dots in a row", s)
	case strings.ContainsFunc(s, func(r rune) bool { return !isNameRune(r) }):
		return fmt.Errorf("%q has characters other than letters, digits, dash, underscore and dot", s)
	}
	return nil
}

func isNameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.'
}

// checkRevision allows what Git allows in the name of a branch or tag, less what could be more than the name of a file.
func checkRevision(s string) error {
	if len(s) > 256 {
		return errors.New("the revision is too long")
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.Contains(part, "..") {
			return fmt.Errorf("the revision %q has a part that is empty, begins with a dot or has two in a row", s)
		}
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !isNameRune(r) && r != '/' && r != '+' && r != '#' && r != '@' }) {
		return fmt.Errorf("the revision %q has characters other than letters, digits and -_.+#@/", s)
	}
	return nil
}

// folder is the name of the entry's folder in the cache.
func (id hubID) folder() string { return hubPrefix + strings.ReplaceAll(id.repo, "/", "--") }

// download is how to get the entry, or what is missing of it.
func download(repo, revision string) string {
	if revision == "" || revision == defaultRevision {
		return "hf download " + repo
	}
	return "hf download " + repo + " --revision " + revision
}

// isCommit tells whether s is a commit, possibly in short.
func isCommit(s string) bool {
	return len(s) >= minPrefix && len(s) <= maxCommit && strings.Trim(s, "0123456789abcdef") == ""
}

// snapshot is a folder inside a hub cache, taken apart.
type snapshot struct{ cache, sub, repo, commit string }

// splitSnapshot recognises CACHE/models--org--name/snapshots/COMMIT and the folders below it.
func splitSnapshot(dir string) (snapshot, bool) {
	var below string
	for at := dir; at != filepath.Dir(at); at = filepath.Dir(at) {
		snapshots := filepath.Dir(at)
		entry := filepath.Dir(snapshots)
		name, ok := strings.CutPrefix(filepath.Base(entry), hubPrefix)
		if ok && filepath.Base(snapshots) == "snapshots" && isCommit(filepath.Base(at)) {
			return snapshot{
				cache:  filepath.Dir(entry),
				sub:    filepath.Join(filepath.Base(entry), "snapshots", filepath.Base(at), below),
				repo:   strings.Replace(name, "--", "/", 1),
				commit: filepath.Base(at),
			}, true
		}
		below = filepath.Join(filepath.Base(at), below)
	}
	return snapshot{}, false
}

// locateID finds an entry of the hub cache by its id, for a path that does not exist.
func locateID(id, cache string) (*place, error) {
	notFound := stages.Fault{Code: stages.CodeNotFound, File: id, Problem: "does not exist"}
	parsed, err := parseHubID(id)
	if err != nil {
		notFound.Advice = "give a folder, a .safetensors or .gguf file, or the id of a model in the Hugging Face cache (org/name[@revision]); as an id it is not valid: " + err.Error()
		return nil, stages.Refuse(notFound)
	}
	notFound.Advice = "check the path, or download the model first: " + download(parsed.repo, parsed.revision)
	if cache == "" {
		notFound.Problem = "does not exist, and no Hugging Face cache is known"
		return nil, stages.Refuse(notFound)
	}
	dir, err := realFolder(cache)
	if errors.Is(err, fs.ErrNotExist) {
		notFound.Problem = "is neither a path nor in the Hugging Face cache, which does not exist"
		notFound.Found = cache
		return nil, stages.Refuse(notFound)
	}
	if err != nil {
		return nil, err
	}
	t, err := openTrust(dir)
	if err != nil {
		return nil, err
	}
	h := hub{trust: t, id: parsed}
	commit, err := h.commit(notFound)
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return &place{
		trust: t, sub: h.snapshot(commit), kind: KindHub,
		repo: parsed.repo, revision: parsed.revision, commit: commit,
	}, nil
}

// realFolder is dir, absolute and without links.
func realFolder(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// hub is one entry of a hub cache.
type hub struct {
	trust *trust
	id    hubID
}

func (h *hub) refs() string { return filepath.Join(h.id.folder(), "refs") }

func (h *hub) snapshot(commit string) string {
	return filepath.Join(h.id.folder(), "snapshots", commit)
}

// commit finds the commit that the revision names and that is in the cache. missing is the Fault for an entry that is not there.
func (h *hub) commit(missing stages.Fault) (string, error) {
	if ok, err := h.isFolder(h.id.folder(), missing); err != nil || !ok {
		missing.Problem = "is neither a path nor in the Hugging Face cache"
		missing.Found = "no folder " + h.trust.path(h.id.folder())
		return "", cmp.Or(err, stages.Refuse(missing))
	}
	commit, err := h.resolve(missing)
	if err != nil {
		return "", err
	}
	if commit != "" {
		if ok, err := h.isFolder(h.snapshot(commit), missing); ok || err != nil {
			return commit, err
		}
	}
	missing.Problem = fmt.Sprintf("revision %q is not in the Hugging Face cache", h.id.revision)
	missing.Expected, missing.Found = "one of the cached revisions", h.cached()
	return "", stages.Refuse(missing)
}

// isFolder tells whether name is a folder inside the cache.
func (h *hub) isFolder(name string, f stages.Fault) (bool, error) {
	_, info, err := h.trust.stat(name)
	switch {
	case err == nil:
		return info.IsDir(), nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	if fault, ok := h.trust.fault(f.Code, name, err); ok {
		err = stages.Refuse(fault)
	}
	return false, err
}

// resolve turns the revision into a commit: by the ref of that name, else as a commit or the unique beginning of one. Empty: unknown.
func (h *hub) resolve(f stages.Fault) (string, error) {
	name := filepath.Join(h.refs(), filepath.FromSlash(h.id.revision))
	const maxRef = 1 << 10
	data, err := h.trust.read(name, maxRef)
	if err == nil {
		return h.checkRef(strings.TrimSpace(string(data)))
	}
	// A folder is the beginning of other refs' names, not a ref.
	notRegular, special := errors.AsType[notRegularError](err)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || special && notRegular.mode.IsDir() {
		return h.match(f)
	}
	if fault, ok := h.trust.fault(stages.CodeConfig, name, err); ok {
		fault.File = name
		return "", stages.Refuse(fault)
	}
	return "", err
}

func (h *hub) checkRef(commit string) (string, error) {
	if isCommit(commit) {
		return commit, nil
	}
	return "", stages.Refuse(stages.Fault{
		Code: stages.CodeConfig, File: filepath.Join(h.refs(), h.id.revision), Problem: "does not hold a commit",
		Expected: "40 hexadecimal digits", Found: fmt.Sprintf("%.80q", commit),
		Advice: "download the model again: " + download(h.id.repo, h.id.revision),
	})
}

// match finds the only cached commit that begins with the revision.
func (h *hub) match(f stages.Fault) (string, error) {
	if !isCommit(h.id.revision) {
		return "", nil
	}
	commits := slices.DeleteFunc(h.commits(), func(c string) bool { return !strings.HasPrefix(c, h.id.revision) })
	switch len(commits) {
	case 0:
		return "", nil
	case 1:
		return commits[0], nil
	}
	if slices.Contains(commits, h.id.revision) {
		return h.id.revision, nil
	}
	return "", stages.Refuse(stages.Fault{
		Code: stages.CodeAmbiguous, File: f.File, Problem: fmt.Sprintf("%q is the beginning of several cached commits", h.id.revision),
		Expected: "one commit", Found: strings.Join(commits, ", "), Advice: "give more digits",
	})
}

// commits lists the cached snapshots. It serves messages and short commits: a folder that cannot be listed has none.
func (h *hub) commits() []string {
	names, err := h.trust.names(filepath.Join(h.id.folder(), "snapshots"))
	if err != nil {
		return nil
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(n string) bool { return !isCommit(n) })
}

// cached lists the refs and commits that could have been asked for.
func (h *hub) cached() string {
	const most = 50
	var refs []string
	// A ref that cannot be listed is only missing from a message.
	_ = fs.WalkDir(h.trust.root.FS(), filepath.ToSlash(h.refs()), func(p string, e fs.DirEntry, err error) error {
		if err != nil || len(refs) == most {
			return fs.SkipAll
		}
		rel, err := filepath.Rel(h.refs(), filepath.FromSlash(p))
		if ref := filepath.ToSlash(rel); err == nil && e.Type().IsRegular() && checkRevision(ref) == nil {
			refs = append(refs, ref)
		}
		return nil
	})
	all := slices.Concat(refs, h.commits())
	if len(all) > most {
		all = append(all[:most], "...")
	}
	return strings.Join(all, ", ")
}
