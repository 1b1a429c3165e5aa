package discover

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload/stages"
)

const (
	sha1 = "0123456789abcdef0123456789abcdef01234567"
	sha2 = "0123456fffffffffffffffffffffffffffffffff"
	sha3 = "fedcba9876543210fedcba9876543210fedcba98"
)

// hubCache makes a cache in which org/name has three snapshots and some refs, laid out as huggingface_hub does.
func hubCache(t *testing.T) string {
	t.Helper()
	const repo = "models--org--name/"
	cache := folder(t, map[string]string{
		repo + "blobs/etag1": "one", repo + "blobs/etag3": "three", repo + "blobs/config": `{"model_type": "m"}`,
		"blobs/ab/xethash": "two",
		repo + "refs/main": sha1 + "\n", repo + "refs/refs/pr/3": sha3, repo + "refs/v1.0": sha2,
		repo + "refs/broken": "../../../..", repo + "refs/gone": "9999999999999999999999999999999999999999",
		"models--gpt2/refs/main": sha1, "models--gpt2/snapshots/" + sha1 + "/model.safetensors": "gpt2",
	})
	entry := filepath.Join(cache, "models--org--name")
	link(t, "../../blobs/ab/xethash", filepath.Join(entry, "blobs", "etag2"))
	for sha, etag := range map[string]string{sha1: "etag1", sha2: "etag2", sha3: "etag3"} {
		link(t, "../../blobs/"+etag, filepath.Join(entry, "snapshots", sha, "model.safetensors"))
		link(t, "../../blobs/config", filepath.Join(entry, "snapshots", sha, "config.json"))
	}
	return cache
}

func TestHubIDs(t *testing.T) {
	cache := hubCache(t)
	for _, tc := range []struct{ id, repo, revision, commit, content string }{
		{"org/name", "org/name", "main", sha1, "one"},
		{"org/name@main", "org/name", "main", sha1, "one"},
		{"org/name@v1.0", "org/name", "v1.0", sha2, "two"}, // two hops
		{"org/name@refs/pr/3", "org/name", "refs/pr/3", sha3, "three"},
		{"org/name@" + sha3, "org/name", sha3, sha3, "three"},
		{"org/name@fedcba9", "org/name", "fedcba9", sha3, "three"},
		{"org/name@0123456789", "org/name", "0123456789", sha1, "one"},
		{"gpt2", "gpt2", "main", sha1, "gpt2"},
	} {
		t.Run(tc.id, func(t *testing.T) {
			ck := discover(t, tc.id, Options{HubCache: cache})
			if ck.Kind != KindHub || ck.Repo != tc.repo || ck.Revision != tc.revision || ck.Commit != tc.commit || ck.Path != tc.id {
				t.Errorf("%s %q@%q, commit %q", ck.Kind, ck.Repo, ck.Revision, ck.Commit)
			}
			if got := content(t, ck, 0); got != tc.content {
				t.Errorf("content %q", got)
			}
		})
	}
}

func TestHubPaths(t *testing.T) {
	cache := hubCache(t)
	snapshots := filepath.Join(cache, "models--org--name", "snapshots")
	link(t, cache, filepath.Join(cache, "alias"))
	for _, tc := range []struct {
		path string
		kind Kind
	}{
		{filepath.Join(snapshots, sha2), KindHub},
		{filepath.Join(cache, "alias", "models--org--name", "snapshots", sha2), KindHub},
		{filepath.Join(snapshots, sha2, "model.safetensors"), KindFile},
	} {
		ck := discover(t, tc.path, Options{})
		if ck.Kind != tc.kind || ck.Repo != "org/name" || ck.Commit != sha2 || ck.Dir != filepath.Join(snapshots, sha2) {
			t.Errorf("%s: %+v", tc.path, ck)
		}
		if content(t, ck, 0) != "two" || ck.Config.ModelType != "m" {
			t.Errorf("%s: wrong content", tc.path)
		}
	}
	// A folder below a snapshot belongs to the same cache.
	link(t, "../../../blobs/etag1", filepath.Join(snapshots, sha1, "unet", "model.safetensors"))
	ck := discover(t, filepath.Join(snapshots, sha1, "unet"), Options{})
	if ck.Repo != "org/name" || ck.Commit != sha1 || content(t, ck, 0) != "one" {
		t.Errorf("sub-folder: %+v", ck)
	}
}

func TestHubRefused(t *testing.T) {
	cache := hubCache(t)
	for _, tc := range []struct {
		id    string
		want  stages.Code
		words []string
	}{
		{"org/other", stages.CodeNotFound, []string{"neither a path nor in the Hugging Face cache", "hf download org/other"}},
		{"org/name@v2", stages.CodeNotFound, []string{`revision "v2" is not`, "main", "v1.0", "refs/pr/3", sha1, sha3, "hf download org/name --revision v2"}},
		{"org/name@refs/pr", stages.CodeNotFound, []string{"cached revisions"}},
		{"org/name@main/x", stages.CodeNotFound, []string{"cached revisions"}},
		{"org/name@fedcba", stages.CodeNotFound, nil}, // too short
		{"org/name@eeeeeee", stages.CodeNotFound, nil},
		{"org/name@gone", stages.CodeNotFound, []string{`revision "gone"`}},
		{"org/name@0123456", stages.CodeAmbiguous, []string{sha1, sha2}},
		{"org/name@broken", stages.CodeConfig, []string{"does not hold a commit"}},
		{"org/name@", stages.CodeNotFound, nil},
		{"org/name@../main", stages.CodeNotFound, nil},
		{"org/name@/main", stages.CodeNotFound, nil},
		{"../org/name", stages.CodeNotFound, nil},
		{"org/../name", stages.CodeNotFound, nil},
		{"org/name/x", stages.CodeNotFound, nil},
		{"org--name", stages.CodeNotFound, nil},
		{"/org/name", stages.CodeNotFound, nil},
		{`org\name`, stages.CodeNotFound, nil},
		{"org/" + strings.Repeat("n", 100), stages.CodeNotFound, nil},
		{"", stages.CodeNotFound, nil},
	} {
		t.Run(tc.id, func(t *testing.T) {
			wantFaults(t, refused(t, tc.id, Options{HubCache: cache}), []stages.Code{tc.want}, tc.words...)
		})
	}
	wantFaults(t, refused(t, "org/name", Options{}), []stages.Code{stages.CodeNotFound}, "no Hugging Face cache is known")
	wantFaults(t, refused(t, "org/name", Options{HubCache: filepath.Join(cache, "none")}), []stages.Code{stages.CodeNotFound}, "which does not exist")
}

func TestHubLinksThatLeaveTheCache(t *testing.T) {
	cache := hubCache(t)
	outside := folder(t, map[string]string{"w": "w"})
	entry := filepath.Join(cache, "models--org--name")
	const sha = "aaaaaaaaaa"
	link(t, filepath.Join(outside, "w"), filepath.Join(entry, "blobs", "evil"))
	link(t, "../../blobs/evil", filepath.Join(entry, "snapshots", sha, "model.safetensors"))
	wantFaults(t, refused(t, "org/name@"+sha, Options{HubCache: cache}), []stages.Code{stages.CodeEscape}, "model.safetensors")
	wantFaults(t, refused(t, filepath.Join(entry, "snapshots", sha), Options{}), []stages.Code{stages.CodeEscape})

	link(t, outside, filepath.Join(cache, "models--org--linked"))
	wantFaults(t, refused(t, "org/linked", Options{HubCache: cache}), []stages.Code{stages.CodeEscape}, outside)
	link(t, filepath.Join(outside, "w"), filepath.Join(entry, "refs", "evil"))
	wantFaults(t, refused(t, "org/name@evil", Options{HubCache: cache}), []stages.Code{stages.CodeEscape})
}

func TestHubDownloadThatIsIncomplete(t *testing.T) {
	cache := hubCache(t)
	snapshots := filepath.Join(cache, "models--org--name", "snapshots")
	fill(t, snapshots, map[string]string{"bbbbbbbbbb/" + indexName: indexOf("x", "a.safetensors", "y", "b.safetensors"), "cccccccccc/README.md": ""})
	link(t, "../../blobs/none", filepath.Join(snapshots, "bbbbbbbbbb", "b.safetensors"))
	wantFaults(t, refused(t, "org/name@bbbbbbb", Options{HubCache: cache}), []stages.Code{stages.CodeMissingShard, stages.CodeMissingShard},
		"a.safetensors", "b.safetensors: is a link to a file that is not there", "complete the download: hf download org/name --revision bbbbbbb")
	wantFaults(t, refused(t, "org/name@cccccccccc", Options{HubCache: cache}), []stages.Code{stages.CodeNotFound}, "hf download org/name --revision cccccccccc")
}

func TestHubCacheFromEnv(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		home string
		want string
	}{
		{map[string]string{"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/h", "/a"},
		{map[string]string{"HUGGINGFACE_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/h", "/a"},
		{map[string]string{"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/h", "/b/hub"},
		{map[string]string{"HF_HOME": "~/hf"}, "/h", "/h/hf/hub"},
		{map[string]string{"XDG_CACHE_HOME": "/c"}, "/h", "/c/huggingface/hub"},
		{nil, "/h", "/h/.cache/huggingface/hub"},
		{nil, "", ""},
	} {
		if got := HubCacheFromEnv(func(k string) string { return tc.env[k] }, tc.home); got != filepath.FromSlash(tc.want) {
			t.Errorf("%v: %q, want %q", tc.env, got, tc.want)
		}
	}
}

// FuzzHubID checks that no id becomes a path outside the cache, nor outside its own entry.
func FuzzHubID(f *testing.F) {
	for _, s := range []string{
		"org/name", "gpt2", "org/name@refs/pr/3", "org/name@0123456", "../x", "a/..", "a--b/c", "org/name@../../x", "/abs", `a\b`,
		"a/b@c/./d", "a/b@\x00", "a/b@..", "a/b@.", "a/b@@", "-a/b", "a/b.", "models--a--b", "ａ/b", "a/b@c//d",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := parseHubID(s)
		if err != nil {
			return
		}
		cache := filepath.FromSlash("/cache")
		entry := filepath.Join(cache, id.folder())
		if filepath.Dir(entry) != cache || !strings.HasPrefix(filepath.Base(entry), hubPrefix) {
			t.Fatalf("%q: entry %q", s, entry)
		}
		h := hub{id: id}
		for _, below := range []string{filepath.Join(h.refs(), filepath.FromSlash(id.revision)), h.snapshot(id.revision)} {
			path := filepath.Join(cache, below)
			if rel, err := filepath.Rel(entry, path); err != nil || !filepath.IsLocal(rel) || len(path) <= len(entry) {
				t.Fatalf("%q: path %q", s, path)
			}
		}
		// Two ids never share an entry.
		if back := strings.ReplaceAll(strings.TrimPrefix(id.folder(), hubPrefix), "--", "/"); back != id.repo {
			t.Fatalf("%q: repo %q, back %q", s, id.repo, back)
		}
	})
}
