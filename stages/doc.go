// Package stages holds the words that every part of coldload shares: what a checkpoint is made of ([Tensor], [Extent]), what comes out
// ([Output], [Slab]), what flows between the stages ([Batch], [Part], [Op]) and the seams that can be replaced ([Source], [Sink]).
//
// It has types and contracts, and no logic beyond arithmetic on them.
//
// Ownership. A [Batch] has one owner at a time: the stage that is processing it, then whoever it was sent to. The bytes it reads
// belong to the [Source] and are valid until [Batch.Release]; the bytes it writes belong to the [Sink] from [Sink.Reserve] on, and only
// the owner of the Batch may touch them until [Sink.Write].
package stages
