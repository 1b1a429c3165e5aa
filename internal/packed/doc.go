// Package packed knows the folder that coldload packs: its manifest coldload.json, the digests in it, and how to check all of it.
//
// A packed folder holds the shards, model.safetensors.index.json, the files carried over from the checkpoint, and the manifest, which is
// written last: a folder without a manifest is not complete. The manifest names every file of the folder with its size and what its bytes
// must be, every Output with its place, and the hash of its own text, so that [Verify] finds a flipped bit anywhere.
//
// Digests. An Output is hashed Slab by Slab, in parallel and in any order; its root is the hash of the Slabs' hashes one after another.
// So the size of the Slabs belongs to the digest. An Output of no bytes has no Slab: its root is the hash of nothing.
package packed
