// Package file writes the result of a load as a packed folder: safetensors shards with their index, the files that the caller carries
// over, and the manifest coldload.json, which comes last. What package packed verifies is what is written here.
//
// # What is where
//
// The Outputs lie in the order of Begin, which is meant to be the order in which they complete. A new shard starts when the next Output
// would take the one at hand past Options.ShardSize, and after 100,000 Outputs; a larger Output has a shard of its own. So names, headers and offsets are known
// before a byte moves, and equal inputs and options give equal folders, whatever the timing.
//
// # Names on the disk
//
// For the target OUT the work happens beside it, in its parent:
//
//	OUT.partial          the folder in the making; nothing in it but what will be in OUT
//	OUT.partial.journal  the lock and the journal: held with flock as long as the sink is open
//	OUT.coldload-old     what OUT was, for the moment of replacing it
//
// The journal lies beside the folder and not in it, so that the folder can be renamed while the lock is held and nothing has to be taken
// out of it first. Whoever gets the lock compares the file that it locked with the one of that name, since the holder before may have
// removed it.
//
// All three names may be taken by something that is no sink's. Nothing is removed, truncated, followed or renamed but what the journal
// proves to be a sink's:
//
//   - The journal is a regular file that is empty, or is a journal by the hash of one of its first two lines, or the beginning of one that a
//     crash has cut short. Anything else is refused, links, folders and pipes too.
//   - OUT.partial is a folder, and is refused when it is not empty and no journal with a good first line lies beside it. The line is durable
//     before the folder is made, and the folder is gone for good before another line is written, so no crash leaves them like that.
//   - OUT.coldload-old is a sink's when the journal says so: a line with the folder's inode is durable before it gets the name. If something
//     else has the name, OUT is not replaced. When OUT need not be replaced, it is left alone.
//
// None of the names may be what Options.Protect names, or hold it. OUT may not be the current folder nor hold it: the shell would
// stand in a folder that is gone. An empty OUT, or one that is replaced, keeps its mode, which OUT.partial has from the start. Owner and
// access lists are not carried over.
//
// # The order of things
//
// Begin: look at OUT; lock; look at OUT again; put right what a killed run left (below); decide whether what OUT is may be replaced; write
// the journal's first line, with the key; make OUT.partial; check the free space; create, allocate and head every shard. While writing: a
// Slab is named in the journal only after its shard was synced; the journal is synced after each entry. Commit: sync every shard; write the
// other files and the index, then the manifest, and sync each; sync the folder; look at OUT once more, since what has come there meanwhile
// may be replaced only with Options.Overwrite; name OUT in the journal and rename it to OUT.coldload-old if it is to be replaced; rename
// OUT.partial to OUT; sync the parent; remove OUT.coldload-old; remove the journal, and let go of the lock.
//
// A run that is killed at any point leaves one of these: OUT as it was, with OUT.partial beside it or not; no OUT, with OUT.partial
// complete and OUT.coldload-old; or OUT complete, with OUT.coldload-old or the journal still there. The next Begin completes the
// renames when OUT.partial is complete and of the same key, and brings OUT.coldload-old back when not. It removes OUT.coldload-old
// when OUT is what has replaced it: at once if there is nothing else to do, otherwise when it needs the name.
//
// The journal is removed last, and only if nothing is left that it tells about: what could not be removed keeps it.
//
// Precheck tells what Begin will refuse, as far as the work need not be known for that.
//
// # Resuming
//
// A later run with the same key goes on where the journal ends; one with another key removes OUT.partial and starts afresh, with a note.
// Data that the journal does not name is never trusted, nor is that of a shard which has not the size and the header that it must have.
// What the journal names is trusted without reading it, but with Options.PlainDigests, which reads it anyway: it must have the hashes then.
// A run that is refused, or fails before it has taken over what is there, leaves all of it.
//
// # Where Outputs lie in a shard
//
// The data area begins at a multiple of 4096 bytes, through padding of the header. First come the Outputs of at least 64 KiB whose size is
// a multiple of 4096, then those of at least 64 KiB whose size is a multiple of 64, then all others, each group in the order of Begin. So
// nearly every large Output begins at a block of the disk: a norm of 256 bytes would move all behind it.
//
// # Writing
//
// A shard is open twice, and 32 of them at a time: before one that is not complete is closed for others, it is synced, so that no error
// of the disk gets lost with the descriptor. Blocks of large Slabs go from their buffers to the disk past the page cache (O_DIRECT), which saves the
// processor time of a copy; the rest goes through the page cache. What goes which way is decided by whole blocks,
// of 4096 bytes or of a page if that is more, so that no block is ever written both ways, whichever Slabs share it:
//
//   - The buffer of a Slab of at least 64 KiB has the address of its place in the file, up to multiples of a block. What lies before its
//     first whole block and behind its last one goes through the page cache.
//   - Whole blocks that are adjacent in the file, also those of several Slabs of a Batch, are one system call. Less than 64 KiB of them go
//     through the page cache with their neighbours.
//   - A Slab whose Output does not begin at a multiple of 64 bytes goes through the page cache: its buffer could not lie like the file and
//     be aligned for the Ops. Only Outputs of odd sizes lie behind such bytes.
//
// A file system that refuses to open a file in this way, tells of larger blocks, or refuses a write (EINVAL and its like) gets all of
// that file through the page cache from then on, and what was refused at once. No byte of the folder depends on it. Direct writes need
// fdatasync like others: allocated extents become data in the file system's journal, and disks have caches. Digests of whole Outputs
// are computed from the buffer when the Output is one Slab, and else read back, without read-ahead: pages that were read ahead of a direct
// write would be old.
//
// What goes through the page cache is under control: 16 MiB windows are handed to the disk when they are full, and waited for when
// more than half of Options.DirtyBytes is on its way; then their pages are dropped. Allocating the shards first matters: without it,
// 0.4 GB/s.
package file
