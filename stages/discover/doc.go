// Package discover finds a Checkpoint: which Shards there are and what the config files say. No weight header is read here; that is
// the index stage's.
//
// A Checkpoint is named by a folder, by one .safetensors file, by an index file, or by a Hugging Face id (org/name[@revision]) that is
// already in the local cache: nothing is ever fetched.
//
// Trust. A checkpoint is somebody else's files. Everything is opened below one folder, the trust root (an [os.Root]): the folder
// itself, or the whole hub cache for a cache entry, because cached files are links into folders beside their snapshot. Links that
// leave the root are refused, and so is whatever is not a regular file, without ever blocking on it.
//
// What is wrong with a Checkpoint is reported all at once, as a [stages.RefusedError]; a failure of the system (a disk error) is a
// plain error.
package discover
